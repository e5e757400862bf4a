/* The run on the page: asks what has changed, patches panel and strip, and passes on what their buttons want. */
"use strict";

(() => {
  const OPENED = "lora-lens-run", RETRY_S = 5;
  const viewer = Math.random().toString(36).slice(2);
  const seen = {};  // part -> the mark of what it shows
  let server, strip, panel, timer, asking = false, askAgain = false, showing = null;
  let opened = lens.remembered(OPENED);

  function patch(parts) {
    for (const [name, { mark, html }] of Object.entries(parts)) {
      const node = name === "strip" ? strip : panel?.querySelector(`[data-part="${name}"]`);
      if (!node) continue;
      lens.morph(node, html);
      seen[name] = mark;
    }
  }

  function show(answer) {
    showing = answer.run;
    patch(answer.parts);
    strip.parentElement.classList.toggle("run-live", Boolean(answer.live));
    document.title = answer.title ? `${answer.title} · LoRA Lens` : "LoRA Lens";
  }

  /** One question, and when the next is due. A page that nobody sees asks nothing. */
  async function look() {
    clearTimeout(timer);
    askAgain = asking;  // the answer on its way may be older than what was just done
    if (document.hidden || asking || !server || !panel) return;
    asking = true;
    let again = RETRY_S;
    try {
      const answer = await server.look({ viewer, opened, seen });
      if (answer) {
        show(answer);
        again = answer.again_s;
      }
    } finally {
      asking = false;
      timer = setTimeout(look, askAgain ? 0 : 1000 * again);
    }
  }

  lens.lookAtRuns = look;

  /** Shows this run from now on, whatever else is started. */
  lens.openRun = (name) => {
    opened = name;
    lens.remember(OPENED, name);
    return look();
  };

  lens.renamed = (name, now) => name === opened && lens.openRun(now);

  /** Opens the tab with this run; on a phone it lies below the form. */
  lens.showRun = async (name) => {
    lens.openTab("train");
    await lens.openRun(name);
    if (innerWidth < 800) document.getElementById("live")?.scrollIntoView({ behavior: "smooth" });
  };

  /** Downloads a file of a run that was made just now, or copies the lines of Python and shows them. */
  async function take(button, run, what) {
    const { path, name, text, copied, copy_yourself } = await lens.call(button, server.take({ run, what }));
    if (path) {
      const link = document.createElement("a");
      const root = location.pathname.replace(/(\/vi)?\/?$/, "");
      link.href = `${root}/gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;
      link.download = name;
      link.click();
    } else if (text) {
      const card = button.closest(".card"), shown = card.querySelector("pre") ?? document.createElement("pre");
      shown.tabIndex = 0;  // it scrolls sideways
      shown.translate = false;
      shown.textContent = text;
      card.append(shown);
      const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
      lens.toast({ problem: done ? copied : copy_yourself });
    }
  }

  /** Starts a merge or a push of a run, or ends it; what comes of it stands in the card. */
  async function work(touched, run) {
    const { key: kind, cancel } = touched.dataset;
    const typed = touched.elements ?? {};
    const given = { repository: typed.repository?.value, public: typed.public?.checked, with_pictures: typed.with_pictures?.checked };
    await lens.call(touched, server.work({ run, kind, cancel: Boolean(cancel), ...given }));
    await look();
  }

  async function act(button) {
    const { do: what, run = showing, key } = button.dataset;
    if (what === "start") return lens.form.start(button);
    if (what === "open") return lens.openRun(run);
    if (what === "try") return lens.tryAdapter(`/${run}`);
    if (what === "row") return lens.openRow(run, key);
    if (what === "duplicate") return lens.form.duplicate(run);
    if (what === "take") return take(button, run, key);
    if (what === "work") return work(button, run);
    const answer = await lens.call(button, server.act({ do: what, run }));
    if (answer?.run) await lens.openRun(answer.run);
  }

  function listen(element) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-do]");
      if (button) act(button);
    });
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      work(event.target, showing);
    });
  }

  lens.startRuns = (element, functions) => {
    [strip, server] = [element.querySelector('[data-part="strip"]'), functions];
    listen(element);
    document.addEventListener("visibilitychange", look);
    look();
  };

  lens.runPanel = (element) => {
    // The strip's script may run before the tabs are there; this one stands inside them.
    if (!panel) lens.nameAnew(element.closest("#pages").querySelector(":scope > .tab-wrapper"));
    panel = element;
    listen(element);
    Object.keys(seen).forEach((name) => name !== "strip" && delete seen[name]);  // it is drawn anew
    look();
  };
})();
