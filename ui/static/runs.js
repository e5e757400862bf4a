/* The lists of the Runs tab: read when the tab is opened, and again while it is looked at. */
"use strict";

(() => {
  const CHANGED = "lens:runs-changed";
  const CALLS = {
    next: "next_row", cancel: "cancel_row", resume: "resume_row", delete: "delete_row", restore: "restore_row",
    empty: "empty_kind",
  };
  const OPEN = "tr.asks, tr.edits";

  function find(element, action, key) {
    return element.querySelector(`button[data-action="${action}"][data-key="${CSS.escape(key)}"]`);
  }

  /** A row that asks whether it is meant ("ask") or takes a name and a note ("edit"), or no longer does; one at a time. */
  function turn(element, row, what) {
    const was = row.classList.contains("edits") ? "edit" : "ask";
    element.querySelectorAll(OPEN).forEach((other) => other.classList.remove("asks", "edits"));
    if (what) row.classList.add(`${what}s`);
    const first = { ask: ".sure [data-action=keep]", edit: ".editor input:enabled" }[what];
    row.querySelector(first ?? `[data-action=${was}]`)?.focus();
  }

  /** Sends the name and the note that were typed into a row; where they are refused they stay. */
  async function save(element, server, form, button) {
    if (form.ariaBusy === "true") return;
    const { name, note } = form.elements, { key } = form.dataset;
    form.ariaBusy = "true";
    const answer = await lens.call(button, server.edit({ key, name: name.value, note: note.value }));
    form.ariaBusy = "false";
    if (answer.warning) return;
    turn(element, form.closest("tr"), null);
    if (answer.run !== key) lens.renamed(key, answer.run);
    document.dispatchEvent(new Event(CHANGED));
  }

  /** Fetches an adapter by its id on the Hub; a name that is refused stays. */
  async function fetchAdapter(server, form, button) {
    if (form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    const answer = await lens.call(button, server.pull_adapter({ repository: form.elements.repository.value }));
    form.ariaBusy = "false";
    if (answer.warning) return;
    form.reset();
    document.dispatchEvent(new Event(CHANGED));
  }

  /** `element` holds a .list; `server.list_rows` gives its rows, `goOn` continues from an adapter. */
  lens.list = (element, server, goOn) => {
    const box = element.querySelector(".list");
    let html = null, timer = 0, asked = 0, undone = null;

    async function read() {
      clearTimeout(timer);
      if (!lens.isShown(element)) return;
      const mine = ++asked;
      let again = 5;
      if (!document.hidden) {
        const answer = await server.list_rows({ undone }).catch(() => null);
        if (mine !== asked) return;
        if (answer) {
          again = answer.again_s;
          draw(answer.html);
        }
      }
      timer = setTimeout(read, 1000 * again);
    }

    function draw(now) {
      // Not while a row asks something: the question would go.
      if (now === html || element.querySelector(OPEN)) return;
      const focused = element.contains(document.activeElement) ? document.activeElement.dataset : null;
      box.innerHTML = html = now;
      if (focused?.action) find(element, focused.action, focused.key)?.focus();
    }

    async function change(touched, action, key) {
      const answer = await lens.call(touched, server[CALLS[action]]({ key }));
      if (!answer.warning) undone = action === "delete" ? key : null;
      touched.closest("tr")?.classList.remove("asks");
      document.dispatchEvent(new Event(CHANGED));
    }

    element.addEventListener("click", (event) => {
      const touched = event.target.closest("button[data-action]");
      if (!touched || touched.ariaBusy === "true") return;
      const { action, key } = touched.dataset;
      if (action in CALLS) change(touched, action, key);
      else if (action === "ask" || action === "edit") turn(element, touched.closest("tr"), action);
      else if (action === "keep") turn(element, touched.closest("tr"), null);
      else if (action === "duplicate") lens.form.duplicate(key);
      else if (action === "try") lens.tryAdapter(key);
      else if (action === "open") lens.showRun(key);
      else {
        lens.openTab("train");
        goOn(key);
      }
    });
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      const by = event.target.matches(".pull") ? fetchAdapter.bind(null, server) : save.bind(null, element, server);
      by(event.target, event.submitter);
    });
    element.addEventListener("keydown", (event) => {
      const row = event.key === "Escape" && event.target.closest(OPEN);
      if (row) turn(element, row, null);
    });
    document.addEventListener(CHANGED, read);
    lens.whenShown(element, read);
  };
})();
