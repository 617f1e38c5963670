"use strict";
// A model's card, and two versions beside each other on the same reviewed parts.
const modelCard = (() => {
  const { make, text, texts, number, get, verdict } = goodparts;
  const tableOf = (table) => make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, ...table.head.map((word) => make("th", { scope: "col", text: word })))),
    make("tbody", {}, ...table.rows.map((row) => make("tr", {}, ...row.map((word) => make("td", { text: word })))))));

  async function show(place, model, version) {
    const card = await get(`/api/v1/models/${encodeURIComponent(model)}/card${version ? `?version=${version}` : ""}`);
    place.replaceChildren(...card.sections.map((section) => {
      const inside = [...section.lines.map((line) => make("p", { text: line })), ...(section.table ? [tableOf(section.table)] : [])];
      const title = section.badge ? `${section.title} (${texts[section.badge] || section.badge})` : section.title;
      return section.folded ? make("details", { class: "card", lang: "en" }, make("summary", { text: title }), ...inside)
        : make("section", { class: "card", lang: "en" }, make("h3", { text: title }), ...inside);
    }));
    return card;
  }

  async function compare(place, model, names, versions) {
    const of = (version) => get(`/api/v1/models/${encodeURIComponent(model)}/reviewed?version=${version}`);
    const found = await Promise.all(versions.map(of));
    if (!found[0].parts.length) { place.replaceChildren(make("p", { text: texts.none_reviewed })); return; }
    const both = new Map(found[0].parts.map((part) => [part.inspection, [part]]));
    for (const part of found[1].parts) both.get(part.inspection)?.push(part);
    const parts = [...both.values()].filter((pair) => pair.length === 2);
    const said = (part, index) => (part.score > found[index].threshold ? "BAD" : "GOOD");
    const wrong = (label, index) => {
      const of_ = parts.filter(([part]) => part.label === label);
      return text(texts.of_n, { k: of_.filter((pair) => said(pair[index], index) !== label).length, n: of_.length });
    };
    const row = (name, ...cells) => make("tr", {}, make("th", { scope: "row", text: name }), ...cells.map((cell) => make("td", { class: "number", text: cell })));
    const changed = parts.filter((pair) => said(pair[0], 0) !== said(pair[1], 1));
    place.replaceChildren(
      make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...names.map((name) => make("th", { scope: "col", class: "number", text: name })))),
        make("tbody", {}, row(texts.threshold, number(found[0].threshold), number(found[1].threshold)), row(texts.missed, wrong("BAD", 0), wrong("BAD", 1)), row(texts.rejected, wrong("GOOD", 0), wrong("GOOD", 1))))),
      make("h3", { text: text(texts.changed, { n: changed.length }) }),
      ...(changed.length ? [make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, ...[texts.part, texts.reviewed_as, ...names].map((word) => make("th", { scope: "col", text: word })))),
        make("tbody", {}, ...changed.slice(0, 100).map((pair) => make("tr", {}, make("td", {}, make("a", { href: `/inspections/${pair[0].inspection}`, text: pair[0].part || pair[0].inspection.slice(0, 12) })), make("td", {}, verdict(pair[0].label)), make("td", {}, verdict(said(pair[0], 0)), ` ${number(pair[0].score)}`), make("td", {}, verdict(said(pair[1], 1)), ` ${number(pair[1].score)}`))))))] : []));
  }
  return { show, compare };
})();
