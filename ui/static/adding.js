/* Adding a dataset: a place to drop files and folders on, or to choose them; the Train and the Data tab have one. */
"use strict";

(() => {
  const AT_ONCE = 4;  // uploads beside each other
  const HIDDEN = /(^|\/)(\.|__MACOSX|Thumbs\.db$|desktop\.ini$)/;

  /* Settings that a script has changed, for the event that hands them to the form. */
  const changed = [];
  lens.change = (trigger, set) => { changed.push(set); trigger(set); };
  lens.changes = () => ({set: Object.assign({}, ...changed.splice(0))});

  /** All files of a drop, those of its folders included, each with its path in them. */
  async function dropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.length) return [...transfer.files].map((file) => ({file, name: file.name}));
    const found = [];
    for (const entry of entries) await gather(entry, "", found);
    return found;
  }

  async function gather(entry, folder, found) {
    const name = folder + entry.name;
    if (entry.isFile) {
      const file = await new Promise((take, fail) => entry.file(take, fail));
      found.push({file, name});
      return;
    }
    const reader = entry.createReader();
    for (;;) {  // it hands out a hundred at a time
      const some = await new Promise((take, fail) => reader.readEntries(take, fail));
      if (!some.length) return;
      for (const each of some) await gather(each, `${name}/`, found);
    }
  }

  /** The files sent, a few at once; `tell` counts. What systems leave in folders is not. */
  async function send(files, upload, tell) {
    const wanted = files.filter(({name}) => !HIDDEN.test(name));
    const sent = new Array(wanted.length);
    let next = 0, done = 0;
    const work = async () => {
      for (let at = next++; at < wanted.length; at = next++) {
        const {path} = await upload(wanted[at].file);
        sent[at] = {path, name: wanted[at].name};
        tell(++done, wanted.length);
      }
    };
    tell(0, wanted.length);
    await Promise.all(Array.from({length: AT_ONCE}, work));
    return sent;
  }

  function progress(box) {
    const place = box.querySelector("[data-sending]");
    place.replaceChildren(box.querySelector("template[data-progress]").content.cloneNode(true));
    const bar = place.querySelector("u"), words = place.querySelector("p"), said = words.textContent.replace(/\s*0\s*$/, "");
    return (done, total) => {
      place.querySelector(".bar").classList.toggle("unknown", done === total);  // sent: it is read now
      bar.style.width = `${(100 * done) / Math.max(1, total)}%`;
      words.textContent = `${said} ${done} / ${total}`;
    };
  }

  /** One box: what is dropped on it, chosen or typed goes to `take({files} or {typed})`, which answers. */
  lens.fillBox = (box, upload, take) => {
    const wrong = box.querySelector("[data-wrong]"), drop = box.querySelector("[data-drop]");
    const give = async (touched, given) => {
      wrong.replaceChildren();
      const answer = await lens.call(touched, take(given));
      if (answer?.trouble) wrong.innerHTML = answer.trouble;
      else if (answer && !answer.warning) lens.showAdding(box, false);
    };
    const giveFiles = async (files) => {
      if (!files.length) return;
      drop.setAttribute("aria-busy", "true");
      try {
        const sent = await send(files, upload, progress(box)).catch(() => null);
        if (sent) await give(drop, {files: sent});
        else wrong.replaceChildren(box.querySelector("template[data-unsent]").content.cloneNode(true));
      } finally {
        drop.removeAttribute("aria-busy");
        box.querySelector("[data-sending]").replaceChildren();
      }
    };
    // What is typed here is no setting of the form that the box may lie in.
    for (const name of ["input", "change"]) box.addEventListener(name, (event) => event.stopPropagation());
    for (const input of box.querySelectorAll("[data-files]"))
      input.addEventListener("change", async () => {
        const files = [...input.files].map((file) => ({file, name: file.webkitRelativePath || file.name}));
        await giveFiles(files);
        input.value = "";
      });
    for (const name of ["dragenter", "dragover"])
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", async (event) => {
      event.preventDefault();
      giveFiles(await dropped(event.dataTransfer));
    });
    box.querySelector("[data-typed]")?.addEventListener("submit", (event) => {
      event.preventDefault();
      give(event.target.querySelector("button"), {typed: event.target.querySelector("input").value});
    });
  };

  /** Opens or closes a box; without `open` the other way round. */
  lens.showAdding = (within, open) => {
    const box = within.matches("[data-adding]") ? within : within.querySelector("[data-adding]");
    box.hidden = open === undefined ? !box.hidden : !open;
    if (!box.hidden) box.querySelector("input").focus({preventScroll: true});
  };

  /** A box that stands alone: what was added becomes the form's dataset. */
  lens.adding = (element, upload, add, trigger) =>
    lens.fillBox(element.querySelector("[data-adding]"), upload, async (given) => {
      const answer = await add(given);
      if (answer.set) lens.change(trigger, answer.set);
      return answer;
    });
})();
