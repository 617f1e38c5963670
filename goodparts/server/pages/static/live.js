"use strict";
(() => {
  const { one, texts, text, make, number, percent, when, picture, verdict, connection, SYMBOLS } = goodparts;
  const grid = one("#tiles");
  if (!grid) return;
  const tiles = new Map();
  const SHIFT = 8 * 3600e3; // milliseconds that are counted unless somebody says when the shift began
  let paused = false, missed = 0, alone = new URLSearchParams(location.search).get("place"), opacity = 0.4;

  const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* not allowed */ } };
  let began = stored("shift");
  if (!began || Date.now() - Date.parse(began) > 2 * SHIFT) began = new Date(Date.now() - SHIFT).toISOString();

  const keyOf = (tile) => JSON.stringify([tile.model, tile.line, tile.camera]);
  const nameOf = (tile) => [tile.model, tile.line && text(texts.line, { line: tile.line }), tile.camera].filter(Boolean).join(" · ");

  class Tile {
    constructor(about) {
      this.name = nameOf(about);
      this.key = keyOf(about);
      this.counts = { GOOD: 0, BAD: 0, RECHECK: 0 };
      this.shown = null;
      this.drawn = 0;
      this.waiting = null;
      this.verdict = make("div", { class: "tile-verdict", role: "status", "aria-live": "off" });
      this.picture = picture({ side: 900, opacity });
      this.score = make("p", { class: "score" });
      this.bar = make("div", { class: "meter", "aria-hidden": "true" }, make("i"), make("b"));
      this.caption = make("p", { class: "caption soft" });
      this.table = make("dl", { class: "counts" });
      this.cells = {};
      for (const [name, word] of [["total", texts.total], ["GOOD", texts.good], ["BAD", texts.bad], ["RECHECK", texts.recheck], ["rate", texts.rejected]]) {
        this.cells[name] = make("dd");
        this.table.append(make("div", { class: `of-${name}` }, make("dt", { text: SYMBOLS[name] ? `${SYMBOLS[name]} ${word}` : word }), this.cells[name]));
      }
      this.title = make("button", { type: "button", class: "plain title", "aria-label": text(texts.tile, { place: this.name }), text: this.name, onclick: () => showAlone(alone === this.key ? null : this.key) });
      this.element = make("section", { class: "tile card", "aria-label": this.name }, make("h2", {}, this.title),
        this.verdict, make("div", { class: "look" }, this.picture.element, this.caption), make("div", { class: "figures" }, this.score, this.bar, this.table));
    }
    count(counts) {
      for (const [word, n] of Object.entries(counts)) this.counts[word] = (this.counts[word] || 0) + n;
      const { GOOD, BAD, RECHECK } = this.counts, total = GOOD + BAD + RECHECK;
      this.cells.total.textContent = number(total, 0);
      for (const word of ["GOOD", "BAD", "RECHECK"]) this.cells[word].textContent = number(this.counts[word], 0);
      this.cells.rate.textContent = total ? percent(BAD / total) : "–";
    }
    show(record) {
      this.shown = record;
      this.verdict.replaceChildren(verdict(record.verdict, "huge"));
      this.score.replaceChildren(make("span", { text: `${texts.score} ` }), make("strong", { text: number(record.score) }),
        make("span", { class: "soft", text: `  ${text(texts.threshold, { value: number(record.threshold) })}` }),
        ...(record.borderline ? [make("span", { class: "chip", text: texts.borderline })] : []));
      const end = 2 * record.threshold || 1;
      one("i", this.bar).style.width = `${Math.min(100, Math.max(0, 100 * record.score / end))}%`;
      this.bar.dataset.verdict = record.verdict;
      this.element.dataset.verdict = record.verdict;
      this.draw();
    }
    // A picture takes a while to make: with many tiles each gets one as often as there is time for.
    draw() {
      if (this.waiting) { this.say(); return; }
      const pause = Math.max(600, 90 * visible()) - (Date.now() - this.drawn);
      this.waiting = setTimeout(() => {
        this.waiting = null;
        if (!this.element.isConnected || this.element.hidden || document.hidden) return;
        this.drawn = Date.now();
        this.drawnOf = this.shown;
        this.picture.show(this.shown, visible() <= 4 ? 900 : 400);
        this.say();
      }, Math.max(0, pause));
      this.say();
    }
    say() {
      const record = this.drawnOf;
      if (!record) return;
      const old = record.id !== this.shown.id;
      this.picture.element.classList.toggle("old", old);
      this.caption.replaceChildren(make("a", { href: `/inspections/${record.id}`, title: texts.details }, goodparts.timeOf(record.time, true)),
        document.createTextNode([record.part && ` · ${record.part}`, old && ` · ${SYMBOLS[record.verdict]} ${texts[record.verdict]}, ${texts.earlier}`, !record.image_kept && ` · ${texts.no_picture}`].filter(Boolean).join("")));
    }
  }

  const visible = () => (alone ? 1 : tiles.size);
  function tileOf(about) {
    const key = keyOf(about);
    if (!tiles.has(key)) {
      const tile = new Tile(about);
      tiles.set(key, tile);
      const order = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
      const after = [...tiles.values()].filter((other) => order(other, tile) > 0).sort(order)[0];
      grid.insertBefore(tile.element, after ? after.element : null);
      arrange();
    }
    return tiles.get(key);
  }
  function arrange() {
    if (alone && !tiles.has(alone)) { if (tiles.size) alone = null; }
    for (const tile of tiles.values()) tile.element.hidden = alone !== null && tile.key !== alone;
    grid.dataset.count = visible() === 1 ? "one" : visible() <= 4 ? "few" : visible() <= 12 ? "many" : "wall";
    one("#every").hidden = alone === null;
    one("#empty").hidden = tiles.size > 0;
  }
  function showAlone(key) {
    alone = key;
    history.replaceState(null, "", key ? `/live?place=${encodeURIComponent(key)}` : "/live");
    arrange();
    for (const tile of tiles.values()) if (!tile.element.hidden && tile.shown) tile.draw();
  }

  async function count() {
    const found = await goodparts.get(`/api/v1/counts?from=${encodeURIComponent(began)}`);
    one("#since").textContent = text(texts.since, { time: when(began) });
    for (const tile of tiles.values()) { tile.counts = { GOOD: 0, BAD: 0, RECHECK: 0 }; tile.count({}); }
    for (const about of found) {
      const tile = tileOf(about);
      tile.count(about.counts);
      if (!tile.shown || tile.shown.id < about.last.id) tile.show(about.last);
    }
    arrange();
  }

  // ---- the stream: after every connection counts are asked for anew, so none is missed or counted twice

  let source = null, counting = true, held = [];
  function take(news) {
    for (const about of news) {
      const tile = tileOf(about);
      tile.count(about.counts);
      if (paused) missed += Object.values(about.counts).reduce((sum, n) => sum + n, 0);
      else tile.show(about.last);
    }
    if (paused) one("#missed").textContent = text(texts.missed, { n: number(missed, 0) });
  }
  function connect() {
    source?.close();
    counting = true;
    held = [];
    source = new EventSource("/api/v1/stream");
    source.addEventListener("open", () => {
      counting = true;
      held = [];
      goodparts.fill(grid, count).then(() => {
        counting = false;
        for (const news of held) take(news.filter((about) => { const tile = tiles.get(keyOf(about)); return !tile?.shown || tile.shown.id < about.last.id; }));
        held = [];
      });
    });
    source.addEventListener("results", (event) => {
      const news = JSON.parse(event.data);
      if (counting) held.push(news); else take(news);
    });
    source.addEventListener("status", (event) => {
      const status = JSON.parse(event.data);
      one("#banner-degraded").hidden = !status.degraded;
      const drift = one("#banner-drift"), models = Object.entries(status.drift);
      drift.hidden = !models.length;
      drift.textContent = models.map(([model, what]) => text(texts.drift, { model, what: what.join(", ") })).join(" ");
      goodparts.regain();
    });
    source.addEventListener("error", () => {
      goodparts.lose();
      if (source.readyState === EventSource.CLOSED) setTimeout(() => goodparts.get("/api/v1/me").catch(() => null), 1000);
    });
  }
  document.addEventListener("goodparts:back", () => { if (source.readyState !== EventSource.OPEN) connect(); });
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) for (const tile of tiles.values()) if (tile.shown) tile.draw(); });

  // ---- buttons

  const pause = one("#pause");
  function toggle() {
    paused = !paused;
    missed = 0;
    pause.textContent = paused ? texts.go_on : texts.pause;
    pause.setAttribute("aria-pressed", paused);
    grid.classList.toggle("paused", paused);
    one("#missed").textContent = "";
    if (!paused) goodparts.fill(grid, count);
  }
  pause.addEventListener("click", toggle);
  document.addEventListener("keydown", (event) => {
    if (event.key === " " && event.target === document.body) { event.preventDefault(); toggle(); }
    if (event.key === "Escape" && alone) showAlone(null);
  });
  one("#every").addEventListener("click", () => showAlone(null));
  one("#opacity").addEventListener("input", (event) => {
    opacity = event.target.value / 100;
    for (const tile of tiles.values()) tile.picture.opacity(opacity);
  });
  one("#shift").addEventListener("click", () => {
    const before = began;
    const set = (time) => { began = time; store("shift", began); goodparts.fill(grid, count); };
    set(new Date().toISOString());
    goodparts.tell(texts.shift_began, "note", { text: texts.undo, run: () => set(before) });
  });
  connect();
})();
