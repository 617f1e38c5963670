"use strict";
// What all pages share: asking the service, the connection's state, times and numbers in the viewer's words.
const goodparts = (() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const texts = JSON.parse(one("#texts").textContent);
  const csrf = one('meta[name="csrf"]')?.content || "";
  const language = document.documentElement.lang;
  const SYMBOLS = { GOOD: "✓", BAD: "✕", RECHECK: "?", UNSURE: "?", none: "–" };

  // Dates and numbers as this viewer writes them, in the language of the page.
  const locale = (navigator.languages || []).find((name) => name.slice(0, 2) === language) || language;
  const text = (pattern, values = {}) => pattern.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

  // An element: make("p", {class: "x", text: "words"}, child, ...)
  function make(name, about = {}, ...children) {
    const svg = ["svg", "rect", "line", "path", "circle", "polyline", "g"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(about)) {
      if (key === "text") made.textContent = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  const number = (value, digits = 3) =>
    Number(value).toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const percent = (value, digits = 1) => `${number(100 * value, digits)} %`;
  const bytes = (value) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let place = 0;
    while (value >= 1000 && place < 4) { value /= 1000; place += 1; }
    return `${number(value, place ? 1 : 0)} ${units[place]}`;
  };
  const when = (iso, short = false) =>
    new Date(iso).toLocaleString(locale, short ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "medium" });
  const timeOf = (iso, short = false) => make("time", { datetime: iso, text: when(iso, short) });

  function verdict(word, size = "") {
    return make("span", { class: `verdict ${word} ${size}` },
      make("span", { class: "symbol", "aria-hidden": "true", text: SYMBOLS[word] || "?" }),
      make("span", { class: "word", text: texts[word] || word }));
  }

  // ---- the connection

  const connection = { lost: false };
  let asking = null;
  function lose() {
    if (connection.lost) return;
    connection.lost = true;
    one("#banner-lost").hidden = false;
    document.body.classList.add("lost");
    asking = setInterval(look, 2000);
  }
  function regain() {
    if (!connection.lost) return;
    connection.lost = false;
    clearInterval(asking);
    one("#banner-lost").hidden = true;
    document.body.classList.remove("lost");
    document.dispatchEvent(new Event("goodparts:back"));
  }
  async function look() {
    try {
      const answer = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(4000) });
      const state = (await answer.json()).status;
      one("#banner-degraded").hidden = state !== "degraded";
      const unavailable = one("#banner-unavailable");
      if (unavailable) unavailable.hidden = state !== "unavailable";
      regain();
    } catch {
      lose();
    }
  }
  setInterval(() => { if (!document.hidden && !connection.lost) look(); }, 10000);
  addEventListener("offline", lose);
  addEventListener("online", look);
  look();

  // ---- asking

  class Refused extends Error {
    constructor(status, code, message) {
      super(message);
      this.status = status;
      this.code = code;
    }
  }

  // The answer's JSON; `body`: an object for JSON, a FormData or a Blob as it is.
  async function ask(method, address, body) {
    const headers = { Accept: "application/json" };
    if (method !== "GET") headers["X-CSRF-Token"] = csrf;
    let sent = body;
    if (body !== undefined && !(body instanceof FormData) && !(body instanceof Blob)) {
      headers["Content-Type"] = "application/json";
      sent = JSON.stringify(body);
    }
    let answer;
    try {
      answer = await fetch(address, { method, headers, body: sent, cache: method === "GET" ? "default" : "no-store" });
    } catch {
      lose();
      throw new Refused(0, "lost", texts.lost);
    }
    regain();
    if (answer.status === 204) return null;
    let found = {};
    try { found = await answer.json(); } catch { /* no JSON */ }
    if (answer.ok) return found;
    const { code = "failed", message = String(answer.status) } = found.error || {};
    if (answer.status === 401) {
      location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    }
    throw new Refused(answer.status, code, code === "busy" ? texts.busy : answer.status === 403 ? texts.not_allowed : message);
  }
  const get = (address) => ask("GET", address);
  const post = (address, body) => ask("POST", address, body);

  // ---- telling

  let telling = null;
  function tell(words, kind = "note", action = null) {
    const told = one("#told");
    told.replaceChildren(make("span", { text: words }));
    if (action) told.append(make("button", { type: "button", class: "plain", text: action.text, onclick: () => { told.hidden = true; action.run(); } }));
    told.className = `told ${kind}`;
    told.hidden = false;
    clearTimeout(telling);
    telling = setTimeout(() => { told.hidden = true; }, kind === "error" ? 12000 : 6000);
  }
  const tellError = (error) => tell(error.code === "lost" ? error.message : text(texts.failed, { message: error.message }), "error");

  // Fill a place with what `load` gives; shows that it loads, that there is nothing, or what went wrong.
  async function fill(place, load) {
    place.setAttribute("aria-busy", "true");
    try {
      await load();
      all(".failed", place).forEach((found) => found.remove());
    } catch (error) {
      all(".failed", place).forEach((found) => found.remove());
      if (!(error instanceof Refused)) console.error(error);
      place.append(make("div", { class: "failed", role: "alert" }, make("p", { text: text(texts.failed, { message: error.message }) }),
        make("button", { type: "button", class: "button", text: texts.retry, onclick: () => fill(place, load) })));
    }
    place.removeAttribute("aria-busy");
  }

  // ---- pictures

  const view = (id, of = "image", side = 900) => `/api/v1/inspections/${id}/view.jpg?of=${of}&side=${side}`;

  // A part's picture with its map above it, and its regions outlined. `show(record)` draws another one.
  function picture({ side = 900, opacity = 0.5, regions = true, alt = "" } = {}) {
    const image = make("img", { class: "under", alt, decoding: "async" });
    const map = make("img", { class: "over", alt: "", decoding: "async" });
    const drawing = make("svg", { class: "regions", "aria-hidden": "true", preserveAspectRatio: "none" });
    const frame = make("div", { class: "picture" }, image, map, drawing);
    map.style.opacity = opacity;
    const shown = {
      element: frame, image, map, drawing,
      opacity(value) { map.style.opacity = value; },
      show(record, size = side) {
        frame.classList.toggle("gone", !record.image_kept);
        frame.style.aspectRatio = `${record.width} / ${record.height}`;
        frame.style.setProperty("--ratio", record.width / record.height);
        drawing.setAttribute("viewBox", `0 0 ${record.width} ${record.height}`);
        drawing.replaceChildren();
        if (!record.image_kept) { image.removeAttribute("src"); map.removeAttribute("src"); return; }
        image.src = view(record.id, "image", size);
        map.src = view(record.id, "heatmap", size);
        if (regions) {
          for (const { box: [left, top, right, bottom] } of record.regions.slice(0, 50)) {
            const place = { x: left, y: top, width: right - left, height: bottom - top, rx: 4, "vector-effect": "non-scaling-stroke" };
            drawing.append(make("rect", { ...place, class: "outer" }), make("rect", { ...place, class: "inner" }));
          }
        }
      },
    };
    for (const one_ of [image, map]) {
      one_.addEventListener("error", () => { if (one_ === image && !connection.lost) frame.classList.add("gone"); one_.removeAttribute("src"); });
    }
    return shown;
  }

  // ---- what the frame's own buttons do

  const cookie = (name, value) => { document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=strict`; };
  one("#theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    cookie("goodparts_theme", root.dataset.theme);
  });
  all("[data-language]").forEach((button) => button.addEventListener("click", () => {
    cookie("goodparts_language", button.dataset.language);
    location.reload();
  }));
  one("#logout")?.addEventListener("click", async () => {
    try { await post("/api/v1/logout"); location.assign("/login"); } catch (error) { tellError(error); }
  });
  one("#menu")?.addEventListener("click", (event) => {
    const open = event.target.getAttribute("aria-expanded") !== "true";
    event.target.setAttribute("aria-expanded", open);
    one("#navigation").classList.toggle("open", open);
  });
  all("time[datetime]").forEach((found) => { found.textContent = when(found.dateTime); });

  // The chosen model, the same on every page of this browser.
  const choice = one("#model");
  if (choice) {
    const asked = new URLSearchParams(location.search).get("model");
    let kept = asked;
    try { kept = asked || localStorage.getItem("model"); } catch { /* not allowed */ }
    if ([...choice.options].some((option) => option.value === kept)) choice.value = kept;
    choice.addEventListener("change", () => { try { localStorage.setItem("model", choice.value); } catch { /* not allowed */ } });
  }

  return { one, all, texts, text, make, number, percent, bytes, when, timeOf, verdict, connection, lose, regain, ask, get, post, tell, tellError, fill, view, picture, language, SYMBOLS };
})();
