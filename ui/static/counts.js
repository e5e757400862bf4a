/* Trainable counts while a rank or a switch is touched. They are linear in the rank: a small table of the server's
   (`rank_table`, checked against PEFT's own figures) tells them at once, and the server's figures follow. */
"use strict";

(() => {
  const TOWERS = ["vision", "connector", "text"];
  let table = null;  // {of: the settings it holds for, towers: {tower: [fixed, per rank, total without adapter]}, words}

  lens.counts = {
    know(fresh) { table = fresh ?? null; },

    /** Writes what the table tells; nothing where it holds for other settings. */
    guess(values) {
      const isOf = ([name, value]) => (values[name] || null) === (value || null);
      if (!table || !Object.entries(table.of).every(isOf) || !ranksAreWhole(values)) return;
      let trainable = 0, total = 0;
      for (const tower of TOWERS) {
        const [fixed, perRank, base] = table.towers[tower];
        const count = trains(tower, values) ? fixed + perRank * Number(values[`${tower}_lora_r`] || 0) : 0;
        trainable += count;
        total += base + count;
        share(tower, count, base + count);
      }
      const line = document.querySelector("#form .total span");
      if (!line || !trainable) return;
      line.className = "";
      line.textContent = filled(table.words.trainable_of, trainable, total, (part) => `(${part})`);
    },
  };

  function ranksAreWhole(values) {
    return TOWERS.every((tower) => !trains(tower, values) || Number(values[`${tower}_lora_r`]) >= 1);
  }

  function trains(tower, values) {
    return tower === "connector" ? values.connector === "lora" : values[`use_${tower}_lora`];
  }

  function share(tower, count, total) {
    const place = document.querySelector(`#form [data-part="${tower}_share"]`);
    if (!place) return;
    place.querySelector(".bar u").style.width = `${100 * Math.sqrt(total ? count / total : 0)}%`;
    place.querySelector(".share").textContent = count ? filled(table.words.tower_share, count, total, (part) => part) : table.words.frozen;
  }

  function filled(words, trainable, total, written) {
    const locale = lens.language === "vi" ? "de" : "en";  // Vietnamese writes 1.234,5 as German does
    const number = (value, digits = 0) =>
      value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });
    const part = `${number((100 * trainable) / Math.max(1, total), 1)} %`;
    return words
      .replace("{trainable}", number(trainable))
      .replace("{total}", number(total))
      .replace("{share}", written(part));
  }
})();
