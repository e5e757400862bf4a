/* The Train form: collects its controls into one value, tells the rest of the page, and asks the server what the
   settings say, cost and weigh. Every answer is `{parts, set, looks, choices}`; the server writes all HTML. */
"use strict";

(() => {
  const SETTLED_MS = 150;  // a person who types is not asked about each letter
  const CARRIED = "lora-lens-form", MODEL = "model", COMPOSE = "+", OTHER = "?";
  const server = {}, extra = { followed: {}, change: null };
  let carrier, tokens = 0, turn = 0, settled;
  const form = lens.form = {};

  const root = () => document.getElementById("form");
  const find = (selector) => root()?.querySelector(selector);
  const control = (name) => find(`[name="${name}"]`);
  const field = (name) => find(`[data-field="${name}"]`);
  const token = () => `${performance.timeOrigin}-${tokens}`;

  // ---------- values ----------

  function valueOf(node) {
    if (node.type === "checkbox") return node.checked;
    return node.type === "number" && node.value !== "" ? Number(node.value) : node.value;
  }

  function layersOf(chips) {
    return [...chips.querySelectorAll("input:checked")].map((chip) => chip.value).join(",");
  }

  form.values = () => {
    const values = {};
    for (const node of root().querySelectorAll("[name]")) values[node.name] = valueOf(node);
    for (const chips of root().querySelectorAll("[data-layers]")) {
      values[chips.dataset.layers] = layersOf(chips) || chips.dataset.value;
    }
    return values;
  };

  function setLayers(chips, value) {
    chips.dataset.value = value;
    for (const chip of chips.querySelectorAll("input")) chip.checked = value.split(",").includes(chip.value);
  }

  function set(values) {
    for (const [name, value] of Object.entries(values)) {
      const node = control(name), chips = find(`[data-layers="${name}"]`);
      if (chips) setLayers(chips, value);
      else if (node?.type === "checkbox") node.checked = value;
      else if (node) {
        if (node.tagName === "SELECT" && ![...node.options].some((option) => option.value === value)) {
          node.add(new Option(value, value));
        }
        node.value = value;
      }
    }
  }

  // ---------- answers ----------

  function patch(parts = {}) {
    for (const [name, html] of Object.entries(parts)) {
      const node = find(`[data-part="${name}"]`);
      if (node) lens.morph(node, html);
    }
    if ("going_on" in parts) find("#going-on").hidden = !parts.going_on;
    if (parts.start_error) find('[data-part="start_error"]').scrollIntoView({ block: "nearest" });
  }

  function look(looks = {}) {
    for (const [name, { seen = true, free = true, trouble }] of Object.entries(looks)) {
      const box = field(name), node = control(name);
      if (!box) continue;
      box.hidden = !seen;
      const instead = find(`[data-instead="${name}"]`);
      if (instead) instead.hidden = seen;
      for (const input of box.querySelectorAll("input, select")) input.disabled = !free;
      if (trouble) node?.setAttribute("aria-invalid", "true");
      else node?.removeAttribute("aria-invalid");
      const hint = box.querySelector(".hint");
      if (hint) hint.textContent = trouble || `--${name}`;
    }
    filterSettings();
  }

  /** What a setting that is left to `auto` says in its place. */
  function leave(unset = {}) {
    for (const [name, words] of Object.entries(unset)) {
      const node = control(name);
      if (node?.tagName === "SELECT") node.options[0].textContent = words;
      else if (node) node.placeholder = words;
    }
  }

  /** What `auto` chose for a run is chosen anew where its dataset changes. */
  function reopened() {
    const names = control("auto").value.split(",").filter(Boolean);
    return { ...Object.fromEntries(names.map((name) => [name, ""])), auto: "" };
  }

  function offer(choices = {}) {
    for (const [name, html] of Object.entries(choices)) {
      const node = find(`[data-layers="${name}"]`) ?? control(name);
      if (node) lens.morph(node, html);
    }
  }

  function take(answer) {
    if (!answer) return answer;
    offer(answer.choices);
    if ("line" in answer) lens.counts.know(answer.line);
    if (answer.followed) extra.followed = answer.followed;
    if (answer.set) {
      set(answer.set);
      changed(answer.set);
    }
    patch(answer.parts);
    look(answer.looks);
    leave(answer.unset);
    return answer;
  }

  const ask = (name, more = {}, touched) =>
    lens.call(touched, server[name]({ settings: form.values(), followed: extra.followed, ...more }));

  // ---------- what follows a change ----------

  /** Tells the page now, and the server when nothing more was touched for a moment. */
  function changed(names = {}) {
    carrier.value = form.values();
    patch({ start_error: "" });  // other settings are another run
    lens.counts.guess(form.values());
    if (OF_DATASET.some((name) => name in names)) preview();
    tokens += 1;
    clearTimeout(settled);
    settled = setTimeout(redraw, SETTLED_MS);
  }

  const OF_DATASET = ["dataset", "columns", "dataset_split", "held_out_split", "question", "image_root"];

  /** Counts first: an estimate beside them would slow them down. An answer that was overtaken is dropped. */
  async function redraw() {
    const mine = ++turn;
    for (const name of ["draw", "count", "measure", "advise"]) {
      const answer = await ask(name);
      if (mine !== turn) return;
      take(answer);
      if (name === "measure" && answer?.fits !== false) return advise(null);
      if (name === "advise") advise(answer?.change);
    }
  }

  function advise(change) {
    extra.change = change;
    find("#advice").hidden = !change;
  }

  async function preview() {
    const part = find('[data-part="preview"]');
    take(await ask("preview", {}, part));
    clearTimeout(settled);
    settled = setTimeout(redraw, SETTLED_MS);  // what is left to `auto` goes by the number of examples
  }

  // ---------- the model ----------

  async function choose(model, touched) {
    find("#composing").hidden = true;
    find("#other-model").hidden = true;
    root().classList.add("reading-model");
    try {
      return take(await ask("choose", { model }, touched));
    } finally {
      root().classList.remove("reading-model");
    }
  }

  let modelBefore = "starter";
  function modelTouched(select) {
    const wanted = select.value;
    if (wanted === COMPOSE || wanted === OTHER) {
      select.value = modelBefore;
      find("#composing").hidden = wanted !== COMPOSE;
      find("#other-model").hidden = wanted !== OTHER;
      find(wanted === OTHER ? "#other-model input" : "#composing input").focus();
      return;
    }
    select.value = modelBefore;  // the server sets it with all that follows it
    choose(wanted, select).then(() => { modelBefore = control(MODEL).value; });
  }

  // ---------- what is touched ----------

  function tidyChips(chip) {
    const chips = chip.closest("[data-layers]"), inputs = [...chips.querySelectorAll("input")];
    const isPreset = (one) => chips.dataset.presets.split(",").includes(one.value);
    // A word for many layers and names of layers do not stand together.
    for (const one of inputs) {
      if (chip.checked && one !== chip && (isPreset(chip) || isPreset(one))) one.checked = false;
    }
    if (!layersOf(chips)) chip.checked = true;
  }

  function touched(event) {
    let node = event.target;
    if (node.id === "find-setting") return filterSettings();
    if (node.dataset.typed || node.dataset.half) return;
    if (node.dataset.choose) {  // one of several datasets, as if it were chosen in the setting's own place
      set({ [node.dataset.choose]: node.value });
      node = control(node.dataset.choose);
    }
    if (node.name === MODEL) return event.type === "change" && modelTouched(node);
    if (node.closest("[data-layers]")) tidyChips(node);
    if (node.name === "from_adapter") return event.type === "change" && continueFrom(node.value, node);
    if (node.name === "dataset") {
      const read = { columns: "", dataset_split: "train", held_out_split: "", question: "", image_root: "" };
      set({ ...read, ...reopened() });
    }
    const settles = event.type === "change" || !OF_DATASET.includes(node.name);
    changed(settles ? { [node.name]: true } : {});
  }

  function continueFrom(named, node = control("from_adapter")) {
    if (!named) return take({ set: { from_adapter: "" } });
    return ask("continue_from", { named }, node).then(take);
  }

  /** Fills the form with the settings of a run, for another one. */
  form.duplicate = async (named) => {
    lens.openTab("train");
    take(await ask("duplicate", { named }, root()));
    root().scrollIntoView({ block: "start", behavior: "smooth" });
  };

  function filterSettings() {
    const words = (find("#find-setting")?.value ?? "").trim().toLowerCase();
    let found = 0;
    for (const group of root().querySelectorAll("[data-group]")) {
      let seen = 0;
      for (const box of group.querySelectorAll("[data-field]")) {
        const hit = !words || box.textContent.toLowerCase().includes(words);
        box.classList.toggle("filtered", !hit);
        if (hit && !box.hidden) seen += 1;
      }
      group.hidden = seen === 0;
      found += seen;
    }
    find("#none-found").hidden = found > 0;
  }

  async function start(button) {
    if (button.getAttribute("aria-busy")) return;
    const answer = take(await ask("start", { token: token() }, button));
    if (!answer?.run) return lens.openTab("train");
    tokens += 1;
    await lens.showRun(answer.run);
  }

  const HALVES = ["vision_tower", "text_model"];
  const ACTIONS = {
    start,
    look_closer: () => lens.openTab("data"),
    fix_rows: () => lens.openTab("data"),
    skip_rows: (button) => { take({ set: { skip_bad_rows: true } }); start(button); },
    compose: (button) => choose(HALVES.map((part) => find(`[data-half="${part}"]`).value).join("+"), button),
    afresh: () => continueFrom(""),
    apply: (button) => (MODEL in extra.change ? choose(extra.change.model, button) : take({ set: extra.change })),
    add: () => lens.showAdding(root()),
  };

  function clicked(event) {
    const button = event.target.closest("button[data-do]");
    if (button && ACTIONS[button.dataset.do]) ACTIONS[button.dataset.do](button);
  }

  // ---------- set-up ----------

  /** The one filled button lies in the bar, which is on every tab. */
  form.start = start;

  form.attach = (element, functions) => {
    Object.assign(server, functions);
    for (const kind of ["input", "change"]) element.addEventListener(kind, touched);
    element.addEventListener("click", clicked);
    element.addEventListener("keydown", (event) => {
      const typed = event.target.dataset?.typed;
      if (typed && event.key === "Enter") choose(event.target.value, event.target);
    });
    find("#advanced")?.addEventListener("toggle", (event) => event.target.open && layersOnce());
    if (carrier) begin();
  };

  let asked = false;
  /** The starter's layers are read when the fold is opened. Another model, chosen meanwhile, has its own. */
  async function layersOnce() {
    if (asked) return;
    asked = true;
    const model = control(MODEL).value;
    const answer = await ask("choose", { model }, find("#advanced summary"));
    if (control(MODEL).value === model && !root().classList.contains("reading-model")) offer(answer?.choices);
  }

  let begun = false;
  function begin() {
    if (begun || !control("dataset") || !control(MODEL)) return;
    begun = true;
    lens.counts.know(JSON.parse(find("[data-line]").dataset.line));
    const carried = sessionStorage.getItem(CARRIED);
    sessionStorage.removeItem(CARRIED);
    if (carried) restore(JSON.parse(carried));
  }

  function restore(values) {
    set(values);
    if (values.model !== "starter") choose(values.model, control(MODEL)).then(() => take({ set: values }));
    else changed({ dataset: true });
  }

  lens.beforeSwitch = () => sessionStorage.setItem(CARRIED, JSON.stringify(form.values()));

  /** The hidden component that other tabs take the settings from, and write their changes to. */
  form.carry = (props, watch) => {
    carrier = props;
    watch("value", () => {
      const { set: wanted, continue_from: named } = props.value ?? {};
      if (wanted) take({ set: wanted });
      if (named) continueFrom(named);
    });
    if (root()) begin();
  };
})();
