"use strict";
(() => {
  const { one, texts, text, make, number, get, verdict, when, fill } = goodparts;
  const form = one("#search"), rows = one("#rows"), BARS = 60;
  let next = null, items = [];

  // The search is in the address, so it can be kept and sent.
  const asked = new URLSearchParams(location.search);
  const local = (iso) => { const time = new Date(iso); return new Date(time - time.getTimezoneOffset() * 60000).toISOString().slice(0, 16); };
  for (const field of form.elements) {
    if (!field.name || !asked.has(field.name)) continue;
    field.value = field.type === "datetime-local" ? local(asked.get(field.name)) : asked.get(field.name);
  }
  function query() {
    const found = new URLSearchParams();
    for (const field of form.elements) {
      const value = field.value.trim();
      if (field.name && value) found.set(field.name, field.type === "datetime-local" ? new Date(value).toISOString() : value);
    }
    return found;
  }
  function add(found) {
    next = found.next;
    items.push(...found.items);
    rows.append(...found.items.map((record) => make("tr", {},
      make("td", {}, make("a", { href: `/inspections/${record.id}` }, goodparts.timeOf(record.time))),
      make("td", {}, verdict(record.verdict)),
      make("td", { text: record.part || "" }),
      make("td", { text: record.model }),
      make("td", { text: [record.line, record.camera].filter(Boolean).join(", ") }),
      make("td", { class: "number", text: `${number(record.score)} / ${number(record.threshold)}` }),
      make("td", {}, verdict(record.review)))));
    one("#table").hidden = !items.length;
    one("#empty").hidden = items.length > 0;
    one("#more").hidden = !next;
    draw();
  }
  // Good and bad ones of the rows shown, in equal steps of time.
  function draw() {
    const line = one("#timeline");
    line.replaceChildren();
    if (items.length < 2) return;
    const last = Date.parse(items[0].time), first = Date.parse(items.at(-1).time), step = Math.max(1, (last - first) / BARS);
    const bars = Array.from({ length: BARS }, () => ({ n: 0, bad: 0 }));
    for (const record of items) {
      const bar = bars[Math.min(BARS - 1, Math.floor((Date.parse(record.time) - first) / step))];
      bar.n += 1;
      bar.bad += record.verdict !== "GOOD";
    }
    const most = Math.max(...bars.map((bar) => bar.n));
    bars.forEach((bar, index) => {
      const title = text(texts.hour, { time: when(first + index * step), n: bar.n, bad: bar.bad });
      const good = make("i"), bad = make("b");
      good.style.height = `${100 * (bar.n - bar.bad) / most}%`;
      bad.style.height = `${100 * bar.bad / most}%`;
      line.append(make("span", { title }, bad, good));
    });
    line.append(make("small", { text: when(first) }), make("small", { class: "end", text: when(last) }));
  }
  const search = () => fill(one("#place"), async () => {
    const wanted = query();
    history.replaceState(null, "", `/history${wanted.size ? `?${wanted}` : ""}`);
    const found = await get(`/api/v1/inspections?${wanted}`);
    rows.replaceChildren();
    items = [];
    add(found);
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  form.addEventListener("change", (event) => { if (event.target.matches("select")) search(); });
  one("#more").addEventListener("click", () => fill(one("#place"), async () => add(await get(next))));
  search();
})();
