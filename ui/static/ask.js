/* The Try tab: who answers, pictures to pick, answers as they come. Read when the tab is opened. */
"use strict";

(() => {
  const tab = { wanted: null, models: null, listed: null, pictures: null, answers: null, place: null };

  /** Opens the tab with this adapter beside its base, and asks about its first held-out picture. */
  lens.tryAdapter = (key) => {
    tab.wanted = key;
    lens.openTab("try");
  };

  lens.models = (element, props, server, upload) => {
    const list = element.querySelector(".list");
    const checks = element.querySelector(".checks");
    let turn = 0;
    let checked = 0;

    /** Reads the list for a choice; an older answer that comes late is dropped. */
    async function read(choice, ask = server.list_models) {
      const mine = ++turn;
      const answer = await lens.call(list, ask(choice)).catch(() => ({}));
      if (mine === turn && answer.value) draw(answer);
      return answer;
    }

    function draw({ value, html }) {
      props.value = value;
      list.innerHTML = html;
      const typed = list.querySelector("#base-typed");
      typed.closest("label").hidden = !typed.hasAttribute("aria-invalid");
      check();
    }

    async function check() {
      const mine = ++checked;
      const answer = await server.check_models(props.value).catch(() => null);
      if (answer && mine === checked) checks.innerHTML = answer.html;
    }

    function chooseBase(base) {
      if (base) return read({ base, who: [], added: props.value.added });
      const typed = list.querySelector("#base-typed");
      typed.closest("label").hidden = false;
      return typed.focus();
    }

    function choose(who) {
      props.value = { ...props.value, who };
      check();
    }

    const add = (touched, asked) =>
      lens.call(touched, read({ ...props.value, ...asked }, server.add_adapter));
    listen(element, { upload, add, chooseBase, choose });
    tab.listed = null;
    tab.models = { read, check, choice: () => props.value, choose: (value) => (props.value = value) };
    lens.whenShown(element, () => opened(tab.wanted));
  };

  /** What is touched in the card: the base, who answers, and the box that adds an adapter. */
  function listen(element, { upload, add, chooseBase, choose }) {
    const adding = element.querySelector(".adding"), wrong = adding.querySelector(".wrong");
    const folder = adding.querySelector("#adapter-folder"), file = adding.querySelector("input[type=file]");

    function openAdding(open) {
      adding.hidden = !open;
      element.querySelector("#add-adapter").setAttribute("aria-expanded", String(open));
    }

    async function give(touched, asked) {
      const answer = await add(touched, asked);
      wrong.innerHTML = answer.trouble || "";
      openAdding(Boolean(answer.trouble));
    }

    async function send() {
      const touched = adding.querySelector("#adapter-zip"), { name } = file.files[0];
      const { path } = await lens.call(touched, upload(file.files[0]));
      file.value = "";
      give(touched, { files: [{ path, name }] });
    }

    const clicks = {
      "add-adapter": () => { openAdding(adding.hidden); folder.focus(); },
      "use-adapter-folder": (touched) => give(touched, { folder: folder.value }),
      "adapter-zip": () => file.click(),
    };
    element.addEventListener("click", (event) => clicks[event.target.id]?.(event.target));
    element.addEventListener("change", ({ target }) => {
      if (target === file && file.files[0]) send();
      else if (target.id === "base" || target.id === "base-typed") chooseBase(target.value.trim());
      else if (target.type === "checkbox") {
        choose([...element.querySelectorAll("#who input:checked")].map((input) => input.value));
      }
    });
    folder.addEventListener("keydown", (event) => {
      if (event.key === "Enter") clicks["use-adapter-folder"](adding.querySelector("#use-adapter-folder"));
    });
  }

  const ANSWERS = "#answers .answers";
  const hiding = document.head.appendChild(document.createElement("style"));

  /** Hides what the selector takes: a rule, as a class would be seen a frame late, and Gradio writes its nodes' anew. */
  function hideAnswers(which) {
    const dots = 'content:"…"; visibility:visible; position:absolute; padding:14px 18px; font-size:18px; opacity:.7';
    hiding.textContent = which && `${which}, ${which} ~ * {visibility:hidden} ${which}::before {${dots}}`;
  }

  /** What the opened tab asks for: those who can answer, and pictures; a wanted adapter is then asked. */
  async function opened(wanted) {
    tab.wanted = null;
    if (wanted) {
      tab.models.choose({ ...tab.models.choice(), try: wanted, who: ["base", wanted] });
      hideAnswers(ANSWERS);
    }
    const choice = tab.models.choice();
    tab.listed = tab.models.read(choice);
    if (await tab.pictures.read(choice) && wanted) tab.pictures.pick(0);
    else hideAnswers("");
  }

  lens.pictures = (element, props, server, ask) => {
    lens.nameAnew(document.getElementById("image"));
    const list = element.querySelector(".list");
    let of = "";
    let html = null;

    async function read(choice) {
      const answer = await server.list_pictures(choice).catch(() => null);
      if (answer && answer.html !== html) {
        of = answer.of;
        list.innerHTML = html = answer.html;
      }
      return list.querySelector("button[data-index]") !== null;
    }

    async function pick(place) {
      const button = list.querySelectorAll("button[data-index]")[place];
      list.querySelectorAll("button").forEach((each) => each.setAttribute("aria-pressed", each === button));
      button.setAttribute("aria-busy", "true");
      // An answer that still comes is about the picture before.
      if (tab.answers.querySelector(".answers[aria-busy=true]")) document.getElementById("stop-answer").click();
      hideAnswers(ANSWERS);
      if (!tab.models.choice().who.length) await tab.listed;
      props.value = { of, index: Number(button.dataset.index) };
      tab.place = `${of}/${button.dataset.index}`;
      ask();
    }

    element.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-index]");
      if (button) pick([...list.querySelectorAll("button[data-index]")].indexOf(button));
    });
    tab.pictures = { read, pick };
  };

  lens.answers = (element, watch) => {
    tab.answers = element;
    let busy = false;
    watch("value", () => {
      const answers = element.querySelector(".answers"), { place } = answers.dataset;
      const now = answers.ariaBusy === "true";
      if (place && tab.place !== null && place !== tab.place) return;  // late: about the picture before
      tab.place = place;
      hideAnswers(`${ANSWERS}:not([data-place=""], [data-place="${CSS.escape(place)}"])`);
      document.querySelectorAll("#pictures button[aria-busy]").forEach((each) => each.removeAttribute("aria-busy"));
      if (busy && !now) tab.models?.check(); // an adapter that was loaded tells more than its files
      busy = now;
    });
  };
})();
