"use strict";
(() => {
  const { one, texts, text, make, get, post, fill, tell, tellError, timeOf, when } = goodparts;
  const work = one("#work");
  if (!work) return;
  const chosen = () => one("#model").value, place = () => `/api/v1/models/${encodeURIComponent(chosen())}`;
  const short = (row) => `${row.version.slice(0, 8)} · ${when(row.added)}`;
  let versions = [];

  async function use(version, words) {
    const before = versions.find((row) => row.active).version;
    try {
      await post(`${place()}/activate`, { version });
      tell(words || texts.used, "note", words ? null : { text: texts.undo, run: () => use(before, texts.used) });
      await load();
    } catch (error) { tellError(error); }
  }
  const load = () => fill(one("#place"), async () => {
    work.hidden = true;
    const found = await get(place());
    versions = found.versions;
    work.hidden = false;
    one("#refused").hidden = !found.refused;
    one("#compared").replaceChildren();
    one("#versions").replaceChildren(...versions.map((row) => make("tr", {},
      make("td", {}, timeOf(row.added)), make("td", {}, make("code", { text: row.version.slice(0, 12) })), make("td", { text: row.author || texts.file }), make("td", { text: row.note }),
      make("td", {}, row.active ? make("strong", { class: "chip", text: `✓ ${texts.serves}` }) : work.dataset.mayActivate ? make("button", { type: "button", class: "button second", text: texts.use, onclick: () => use(row.version) }) : "",
        " ", make("button", { type: "button", class: "plain", text: texts.show_card, onclick: () => fill(one("#card"), () => showCard(row.version)) })))));
    for (const id of ["#first", "#second"]) one(id).replaceChildren(...versions.map((row) => make("option", { value: row.version, text: short(row) })));
    const active = versions.findIndex((row) => row.active);
    one("#second").selectedIndex = Math.max(0, active);
    one("#first").selectedIndex = Math.min(versions.length - 1, active + 1);
    await showCard(found.version);
  });
  async function showCard(version) {
    const card = await modelCard.show(one("#card"), chosen(), version);
    one("#of").textContent = text(texts.of, { version: card.version.slice(0, 12) });
  }
  one("#compare").addEventListener("click", () => fill(one("#compared"), () => {
    const picked = [one("#first"), one("#second")];
    return modelCard.compare(one("#compared"), chosen(), picked.map((select) => select.selectedOptions[0].textContent), picked.map((select) => select.value));
  }));
  one("#model").addEventListener("change", load);
  load();
})();
