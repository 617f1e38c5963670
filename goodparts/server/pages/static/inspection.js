"use strict";
(() => {
  const { one, texts, text, make, number, get, picture, verdict, timeOf, fill } = goodparts;
  const id = one("#place").dataset.inspection;
  const look = picture({ opacity: 0.6 });
  let record = null;
  one("#look").append(look.element);
  nearestGood(look, one("#nearest"), () => record);
  const facts = (place, rows) => place.replaceChildren(...rows.filter(([, value]) => value !== null && value !== "" && value !== undefined)
    .flatMap(([name, value]) => [make("dt", { text: name }), make("dd", {}, value)]));

  fill(one("#place"), async () => {
    let reviews;
    try {
      [record, reviews] = await Promise.all([get(`/api/v1/inspections/${id}`), get(`/api/v1/inspections/${id}/reviews`)]);
    } catch (error) {
      if (error.status === 404) error.message = texts.gone;
      throw error;
    }
    one("#one").hidden = false;
    one("#name").textContent = record.part || `${record.id.slice(0, 12)} …`;
    one("#verdict").replaceChildren(verdict(record.verdict, "big"));
    look.show(record);
    facts(one("#found"), [
      [texts.score, number(record.score, 4)],
      [texts.threshold, number(record.threshold, 4)],
      [texts.p_value, goodparts.percent(record.p_value)],
      [texts.borderline, record.borderline ? texts.yes : texts.no],
      [texts.reasons, record.reasons.join("; ")],
      ...record.zones.map((zone) => [text(texts.zone, { name: zone.name }), `${zone.bad ? "✕" : "✓"} ${number(zone.score)} / ${number(zone.threshold)}`]),
      [texts.regions, record.regions.length ? make("ul", { class: "said" }, ...record.regions.slice(0, 20).map((region) =>
        make("li", { text: text(texts.region, { area: number(region.area, 0), x: number(region.centroid[0], 0), y: number(region.centroid[1], 0), peak: number(region.peak, 2) }) }))) : texts.none_found],
    ]);
    if (reviews.length) one("#reviews").replaceChildren(make("ul", { class: "said" }, ...reviews.map((said) =>
      make("li", {}, verdict(said.label), ` ${said.account} `, timeOf(said.time), [said.defect_class, said.comment].filter(Boolean).map((word) => ` · ${word}`).join("")))));
    const { decode, wait, inference } = record.timings_ms;
    facts(one("#technical"), [
      [texts.time, timeOf(record.time)],
      [texts.place, [record.line, record.camera].filter(Boolean).join(", ")],
      [texts.model, make("a", { href: `/models?model=${encodeURIComponent(record.model)}`, text: record.model })],
      [texts.version, make("code", { text: record.model_version.slice(0, 16) })],
      [texts.size, `${record.width} × ${record.height} px`],
      [texts.times, [decode, wait, inference].map((value) => `${number(value, 1)} ms`).join(", ")],
      [texts.account, record.account],
      [texts.metadata, Object.keys(record.metadata).length ? make("code", { text: JSON.stringify(record.metadata) }) : ""],
      [texts.id, make("code", { text: record.id })],
      [texts.request, make("code", { text: record.request })],
    ]);
  });
  one("#opacity").addEventListener("input", (event) => look.opacity(event.target.value / 100));
  one("#print").addEventListener("click", () => print());
})();
