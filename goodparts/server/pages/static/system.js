"use strict";
(() => {
  const { one, texts, text, make, number, bytes, get, fill, timeOf } = goodparts;
  const work = one("#work");
  const facts = (place, rows) => place.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  const load = () => fill(one("#place"), async () => {
    const [now, events] = await Promise.all([get("/api/v1/system"), get("/api/v1/events?limit=30")]);
    work.hidden = false;
    facts(one("#storage"), [
      [texts.database, `${now.database}, ${now.available ? texts.answers : texts.silent}`],
      [texts.stored, bytes(now.stored_bytes)],
      [texts.free, bytes(now.free_bytes) + (now.degraded ? ` – ${texts.full}` : "")],
      [texts.lost, number(now.images_lost, 0)],
      [texts.unrecorded, number(now.unrecorded, 0)],
    ]);
    facts(one("#queue"), [
      [texts.queue, text(texts.of, { n: now.queue, most: now.queue_limit })],
      [texts.workers, number(now.workers, 0)],
      [texts.waiting, number(now.waiting_changes, 0)],
      [texts.watchers, number(now.watchers, 0)],
      [texts.models, text(texts.of, { n: now.models_loaded, most: now.models })],
      [texts.processor, text(texts.cores, { cores: now.cores, kind: now.processor })],
      [texts.running, text(texts.hours, { n: number(now.running_seconds / 3600, 1) })],
      [texts.version, now.version],
    ]);
    one("#no-events").hidden = events.length > 0;
    one("#events").replaceChildren(...events.map((event) => make("tr", {}, make("td", {}, timeOf(event.time)), make("td", { text: event.kind }), make("td", { text: event.model || "" }), make("td", { text: event.message }))));
    if (!work.dataset.mayAudit) return;
    const { head } = await get("/api/v1/audit/head"), last = Number(head.split(":")[0]);
    one("#head").textContent = head;
    const entries = await get(`/api/v1/audit?after=${Math.max(0, last - 30)}&limit=30`);
    one("#audit").replaceChildren(...entries.reverse().map((entry) => make("tr", {}, make("td", { class: "number", text: entry.sequence }), make("td", {}, timeOf(entry.time)), make("td", { text: entry.actor }), make("td", { text: entry.action }), make("td", {}, make("code", { text: entry.subject })))));
  });
  one("#again").addEventListener("click", load);
  document.addEventListener("goodparts:back", load);
  load();
})();
