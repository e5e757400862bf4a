/* The Data tab: what is touched is asked of the server in one call, and its answer put in its place. */
"use strict";

(() => {
  const PINS = "lora-lens-pins", SEARCH_MS = 250, AGAIN_MS = 60;
  const STICKS_AT = 134;  // px: below the bar and the strip
  let tab = null;        // the tab, once it was opened
  let waiting = null;    // what is to be shown as soon as it is

  /** The Train tab with Start in sight. */
  function train() {
    lens.openTab("train");
    setTimeout(() => {
      const start = document.getElementById("start");
      start?.scrollIntoView({behavior: "smooth", block: "center"});
      start?.focus({preventScroll: true});
    }, 150);
  }

  /** The settings as they are when the tab is opened. */
  lens.openData = (settings) => {
    if (tab) tab.open(settings);
    else waiting = {...waiting, settings};
  };

  /** A row of a run's dataset, from anywhere on the page. */
  lens.openRow = (run, row) => {
    if (tab && lens.isShown(tab.element)) return tab.ask("hard", {run, row});
    waiting = {...waiting, row: {run, row}};  // asked for once the tab has the settings of now
    lens.openTab("data");
  };

  lens.data = (element, upload, server, trigger) => {
    tab = new DataTab(element, upload, server, trigger);
    window.requestAnimationFrame(() => {  // the event that opens the tab may come later
      if (waiting?.settings) tab.open(waiting.settings);
    });
  };

  class DataTab {
    constructor(element, upload, server, trigger) {
      Object.assign(this, {element, upload, server, trigger, settings: null, latest: {}});
      this.now = {
        visitor: String(Math.random()), query: "", view: "gallery", first: 0, opened: [],
        checked: null, at: null, pane: "see", saved: null,
      };
      this.listen();
      for (const box of element.querySelectorAll("[data-adding]"))
        lens.fillBox(box, upload, (given) => this.ask(box.dataset.adding === "data" ? "add" : "start_labels", given));
      new ResizeObserver(() => this.stick()).observe(this.find("[data-stick]"));
      window.addEventListener("resize", () => this.stick());
    }

    find(selector) { return this.element.querySelector(selector); }

    open(settings) {
      this.settings = settings.set ? {...this.settings, ...settings.set} : settings;
      const row = waiting?.row;
      waiting = null;
      if (row) this.ask("hard", row);
      else this.ask("draw");
    }

    /** Asks, and shows the answer; one that a later question of its kind has overtaken is not shown. */
    async ask(act, more = {}, touched = null) {
      const turn = (this.latest[act] = (this.latest[act] || 0) + 1);
      const asked = {act, settings: {...this.settings}, now: {...this.now, ...more}};
      const answer = await lens.call(touched, this.server(asked));
      const overtaken = turn !== this.latest[act] || (act === "draw" && asked.settings.dataset !== this.settings.dataset);
      if (overtaken || !answer || answer.warning) return answer || {};
      await this.take(answer, act, more, touched);
      return answer;
    }

    async take(answer, act, more, touched) {
      if (answer.set) {
        Object.assign(this.settings, answer.set);
        lens.change(this.trigger, answer.set);
      }
      Object.assign(this.now, answer.now);
      for (const [name, html] of Object.entries(answer.parts || {})) this.put(name, html);
      this.showSettings();
      if (answer.mapping || (answer.set?.dataset && "mapping" in answer)) this.find("#data-columns").open = answer.mapping;
      if (answer.now?.query === "") this.find("#search").value = "";
      if (answer.draft !== undefined) this.write("#edit-answer", answer.draft);
      if (answer.box) lens.showAdding(this.find(`[data-adding=${answer.box}]`));
      if (answer.pane) this.now.pane = answer.pane;
      if (answer.parts?.pane !== undefined) this.showPane(answer);
      if (act === "check") {
        this.find("#cancel-check").hidden = !answer.again;
        this.find("#check").disabled = Boolean(answer.again);
      }
      if (answer.to) this.scrollTo(answer.to);
      if (answer.focus) this.focusField();
      if (answer.again) {
        await new Promise((go) => setTimeout(go, AGAIN_MS));
        await this.ask(answer.again, {...(answer.again === act ? more : {}), again: true}, touched);
      }
    }

    /** HTML of the server's templates in its place; what had the focus there has it again. */
    put(name, html) {
      const place = this.find(`[data-part="${name}"]`);
      if (!place) return;
      const focused = place.contains(document.activeElement) ? document.activeElement : null;
      place.innerHTML = html;
      const of = this.find(`[data-of="${name}"]`);
      if (of) of.hidden = !html;
      if (focused && place.tagName !== "SELECT") this.refocus(place, focused);
    }

    refocus(place, before) {
      const same = (node) => (node.id && node.id === before.id)
        || ((before.dataset.act || before.dataset.choose) && JSON.stringify(node.dataset) === JSON.stringify(before.dataset));
      [...place.querySelectorAll("button, select, input")].find(same)?.focus({preventScroll: true});
    }

    showSettings() {
      for (const box of this.element.querySelectorAll("[data-setting]")) {
        const value = this.settings[box.dataset.setting];
        if (box.type === "checkbox") box.checked = Boolean(value);
        else if (box !== document.activeElement) box.value = value;
      }
    }

    /** The pane with the tab that is chosen; what the model sees is asked for once that is looked at. */
    showPane(answer) {
      if (!this.now.at) this.now.pane = "see";
      const labels = Boolean(this.now.at?.folder);
      if (answer && "ask_see" in answer) this.unseen = answer.ask_see;
      if (answer && "ask_see" in answer && !answer.ask_see) this.now.pane = "edit";
      this.find("#pane-see").hidden = labels;
      for (const name of ["see", "edit"]) {
        const chosen = this.now.pane === name;
        this.find(`#pane-${name}`).setAttribute("aria-selected", chosen);
        this.find(`#pane-${name}`).tabIndex = chosen ? 0 : -1;
        this.find(`[data-part=${name}]`).hidden = !chosen;
      }
      this.mark();
      if (this.now.at && this.now.pane === "see" && this.unseen) {
        this.unseen = false;
        this.ask("see");
      }
      if (this.now.pane === "edit") this.grow();
    }

    /** The example that is looked at, in the gallery. */
    mark() {
      for (const card of this.element.querySelectorAll("#examples [data-row]")) {
        const on = card.dataset.row === this.now.at?.row;
        (card.closest("tr") || card).classList.toggle("on", on);
      }
    }

    close() {
      const row = this.now.at?.row;
      Object.assign(this.now, {at: null, pane: "see", put_in: null});
      this.find("#pane").hidden = true;
      this.mark();
      const card = [...this.element.querySelectorAll("[data-row]")].find((node) => node.dataset.row === row);
      card?.focus({preventScroll: true});
      card?.scrollIntoView({behavior: "smooth", block: "nearest"});
    }

    scrollTo(id) {
      const place = this.find(`#${id}`);
      if (!place || (id === "findings" && innerWidth >= 1100)) return;
      place.scrollIntoView({behavior: "smooth", block: id === "pane" ? "start" : "center"});
      if (id === "pane" && this.now.pane === "edit") this.focusField();
    }

    /** The first empty box, or else the last. */
    focusField() {
      const fields = [...this.element.querySelectorAll("#editor textarea")];
      (fields.find((field) => !field.value) || fields[fields.length - 1])?.focus({preventScroll: true});
    }

    write(selector, text) {
      const field = this.find(selector);
      if (field) field.value = text;
      this.grow();
    }

    grow() {
      for (const field of this.element.querySelectorAll("#editor textarea")) {
        field.style.height = "auto";
        field.style.height = `${Math.min(field.scrollHeight + 2, 320)}px`;
      }
    }

    fields() {
      return Object.fromEntries([...this.element.querySelectorAll("#editor [name]")].map((box) => [box.name, box.value]));
    }

    /** The column of settings stays in sight; a long one shows its end. */
    stick() {
      const column = this.find("[data-stick]");
      column.style.top = `${Math.min(STICKS_AT, innerHeight - column.offsetHeight - 12)}px`;
    }

    listen() {
      const on = (name, handler) => this.element.addEventListener(name, handler.bind(this));
      on("click", this.clicked);
      on("change", this.changed);
      on("submit", this.submitted);
      on("keydown", this.pressed);
      on("input", (event) => {
        if (event.target.closest("#editor")) this.grow();
        if (!event.target.matches("[data-search]")) return;
        clearTimeout(this.searching);
        this.searching = setTimeout(() => {
          Object.assign(this.now, {query: event.target.value, first: 0});
          this.ask("examples");
        }, SEARCH_MS);
      });
    }

    clicked(event) {
      const button = event.target.closest("button");
      if (!button || !this.settings) return;
      const {act, pane, view, box} = button.dataset;
      if ("train" in button.dataset) train();
      if ("close" in button.dataset) this.close();
      if (box) {
        lens.showAdding(this.find(`[data-adding=${box}]`));
        button.setAttribute("aria-expanded", !this.find(`[data-adding=${box}]`).hidden);
      }
      if (pane) { this.now.pane = pane; this.showPane(); }
      if (view) this.showView(view, button);
      if (!act) return;
      event.preventDefault();
      if (act === "page") { this.now.first = Number(button.dataset.first); return this.ask("examples", {}, button); }
      return this.act(act, button);
    }

    async act(act, button) {
      const more = {...button.dataset};
      if (["move", "draft"].includes(act)) Object.assign(more, {fields: this.fields(), who: this.fields().who, value: undefined});
      const {act: _, ...said} = more;
      if (act === "move") this.latest.draft = (this.latest.draft || 0) + 1;  // it would be of another picture
      const answer = await this.ask(act, said, button);
      if (["look", "fix"].includes(act) && !answer.warning) this.scrollTo("pane");
    }

    showView(view, button) {
      this.now.view = view;
      for (const each of this.element.querySelectorAll("[data-view]")) each.setAttribute("aria-pressed", each.dataset.view === view);
      this.ask("examples", {}, button);
    }

    async changed(event) {
      const box = event.target;
      if (box.matches("[data-choose]")) return this.ask("choose", {choose: box.dataset.choose, value: box.value}, box);
      if (box.matches("[data-column]")) {
        const chosen = [...this.element.querySelectorAll("[data-column]")].map((each) => [each.dataset.column, each.value]);
        return this.ask("columns", {columns: Object.fromEntries(chosen)}, box);
      }
      if (box.matches("[data-put-in]") && box.files.length) {
        const {path} = await this.upload(box.files[0]);
        return this.ask("put_in", {files: [{path, name: box.files[0].name}]}, box.closest("label"));
      }
      if (box.matches("[data-setting]")) this.set(box);
    }

    set(box) {
      const value = box.type === "checkbox" ? box.checked : box.value === "" ? null : Number(box.value);
      const wrong = box.type === "number" && (value === null || !box.validity.valid);
      box.setAttribute("aria-invalid", wrong);
      this.settings[box.dataset.setting] = value;
      lens.change(this.trigger, {[box.dataset.setting]: value});
      this.ask("setting", {}, box);
    }

    submitted(event) {
      event.preventDefault();
      const form = event.target;
      if (form.matches("[data-version]")) this.ask("save_version", {name: form.elements.name.value}, form.querySelector("button"));
    }

    /** Enter saves and goes on, Alt with an arrow moves; in a question, Enter goes to the answer. */
    pressed(event) {
      const step = {ArrowLeft: "#pane-back", ArrowRight: "#pane-on"}[event.key];
      if (event.altKey && step && this.now.at) {
        event.preventDefault();
        return this.find(step).click();
      }
      const tabs = event.target.closest("[role=tablist]");
      if (tabs && step) {
        const other = this.find(event.target.id === "pane-see" ? "#pane-edit" : "#pane-see");
        if (!other.hidden) { other.click(); other.focus(); }
      }
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || !event.target.matches("#editor textarea")) return;
      event.preventDefault();
      if (event.target.name === "question") this.find("#edit-answer").focus();
      else this.find("#edit-save").click();
    }
  }

  /* ---------- pins: this browser keeps those of each dataset ---------- */
  let last = null;

  function kept() {
    try { return JSON.parse(localStorage.getItem(PINS)) || {}; } catch { return {}; }
  }

  /** The settings' pins follow the dataset; those typed or clicked are kept for it. */
  lens.pins = (settings) => {
    const nothing = {__type__: "update"};
    if (!settings || settings.set) return nothing;
    const {dataset, pinned_examples: written} = settings, pins = kept();
    const same = dataset === last;
    last = dataset;
    if (same) {
      if ((written || "") !== (pins[dataset] || "")) {
        try { localStorage.setItem(PINS, JSON.stringify({...pins, [dataset]: written || ""})); } catch { /* for this visit only */ }
      }
      return nothing;
    }
    // Others came with the dataset: those of a run that is gone on from.
    const foreign = written && !Object.values(pins).includes(written);
    if (foreign || (written || "") === (pins[dataset] || "")) return nothing;
    return {set: {pinned_examples: pins[dataset] || ""}};
  };
})();
