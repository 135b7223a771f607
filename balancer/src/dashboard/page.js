// The dashboard. Whatever comes from the balancer is set as text, never as markup.
"use strict";

const PERIOD = 2000; // between two looks, in milliseconds
const PATIENCE = 5000; // with one answer
const SPAN = 900; // seconds that the graphs show
const SOON = 14; // days before its end when a certificate is worth a warning

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const count = (number) => whole.format(number);

// An element; `what` are attributes, or `text`.
function make(tag, what = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(what)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function drawn(tag, what) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(what)) element.setAttribute(name, value);
  return element;
}

// What is the same stays untouched, so that a selection or a screen reader is not disturbed.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, kind, text) {
  const wanted = `state ${kind}`;
  if (element.className !== wanted) element.className = wanted;
  say(element, text);
}

function long(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(parts.findIndex(([length]) => seconds >= length), 0);
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [[length, unit], next] = [parts[at], parts[at + 1]];
  const rest = Math.floor((seconds % length) / next[0]);
  const main = `${Math.floor(seconds / length)} ${unit}`;
  return rest > 0 && next[1] !== "s" ? `${main} ${rest} ${next[1]}` : main;
}

function bytes(number) {
  const units = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
  let at = 0;
  while (number >= 1000 && at < units.length - 1) {
    number /= 1000;
    at += 1;
  }
  return `${at > 0 && number < 100 ? number.toFixed(1) : Math.round(number)} ${units[at]}`;
}

// --- asking the balancer ---------------------------------------------------------------------------------------------

class Problem extends Error {}

async function ask(path, body) {
  const posted = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...posted, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (answer.status === 401) {
    location.assign("/login");
    return new Promise(() => {});
  }
  const value = await answer.json();
  if (!answer.ok) throw new Problem(value.error ?? `the balancer answered ${answer.status}`);
  return value;
}

let timer;
let lastHeard = Date.now();

async function look() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const after = samples.length ? `?after=${samples.at(-1).at}` : "";
    const [status, history] = await Promise.all([ask("/api/status"), ask(`/api/history${after}`)]);
    lastHeard = Date.now();
    found();
    show(status);
    remember(history);
  } catch (error) {
    lost(error);
  }
  timer = setTimeout(look, PERIOD);
}

function found() {
  $("lost").hidden = true;
  $("live").classList.remove("stale");
  $("live").inert = false;
}

function lost(error) {
  const ago = long((Date.now() - lastHeard) / 1000);
  const why = error instanceof Problem ? `: ${error.message}` : "";
  say($("lost"), `The balancer has not answered for ${ago}${why}. What you see below is from before.`);
  $("lost").hidden = false;
  $("live").classList.add("stale");
  $("live").inert = true;
  mark($("health"), "bad", "no answer");
}

// --- what is told in words -------------------------------------------------------------------------------------------

function show(status) {
  showHealth(status);
  const wanted = status.backends.map((backend) => [backend.name, backend]);
  keep($("backends"), wanted, backendView);
  canMove = status.moves !== undefined;
  showMoves(status.moves ?? []);
  showFrontends(status.frontends);
  showCertificates(status.certificates);
}

function showHealth(status) {
  if (status.draining) mark($("health"), "warn", "stopping");
  else if (!status.ready) mark($("health"), "bad", "not ready");
  else if (status.degraded) mark($("health"), "warn", "degraded");
  else mark($("health"), "good", "ready");
  say($("about"), `${status.version} · up ${long(status.uptime_seconds)} · ${count(status.sessions)} sessions`);
  $("problem").hidden = !status.problem;
  say($("problem").querySelector("pre"), status.problem ?? "");
}

// Children of `parent` for a list of `[key, value]`: those that are there are told the new value, others are made.
function keep(parent, wanted, view) {
  parent.views ??= new Map();
  const views = new Map();
  for (const [key, value] of wanted) {
    const kept = parent.views.get(key) ?? view(value);
    kept.update(value);
    views.set(key, kept);
  }
  for (const [key, old] of parent.views) if (!views.has(key)) old.element.remove();
  [...views.values()].forEach(({ element }, at) => {
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
  });
  parent.views = views;
}

const COLUMNS = [
  ["Server", ""], ["State", ""], ["Sessions", ""], ["New/s", "number"], ["Weight", "number"],
  ["Connect failed", "number"], ["Check", ""], ["In state for", "number"], ["", ""],
];

function backendView({ name }) {
  const title = make("h2", { text: name });
  const about = make("p");
  const head = make("tr", {}, ...COLUMNS.map(([text, kind]) => make("th", { scope: "col", class: kind, text })));
  const body = make("tbody");
  const table = make("table", { class: "cards", "aria-label": `Servers of ${name}` }, make("thead", {}, head), body);
  const element = make("div", { class: "backend" }, make("header", {}, title, about), make("div", { class: "scroll" }, table));
  const update = (backend) => {
    const servers = [...backend.servers, ...backend.leaving];
    const sessions = servers.reduce((sum, server) => sum + server.sessions, 0);
    const waiting = backend.queued > 0 ? ` · ${count(backend.queued)} waiting for a seat` : "";
    say(about, `${count(sessions)} sessions${waiting}`);
    const weights = backend.servers.filter(takes).reduce((sum, server) => sum + server.weight, 0);
    const fair = (server) => (takes(server) && weights > 0 ? (sessions * server.weight) / weights : 0);
    const most = Math.max(1, ...servers.map((server) => Math.max(server.sessions, fair(server))));
    const row = (server) => [`${server.name} ${server.address}`, { server, fair: fair(server), most }];
    keep(body, servers.map(row), serverView);
  };
  return { element, update };
}

const takes = (server) => server.state === "healthy";
const STATES = {
  joining: ["", "joining"], healthy: ["good", "healthy"], unhealthy: ["bad", "down"], draining: ["warn", "draining"],
  gone: ["", "leaving"],
};
const VERDICTS = { ok: "good", slow: "warn" };

function serverView({ server: { name, address } }) {
  const cell = (title, kind, ...children) => make("td", { "data-name": title, class: kind }, ...children);
  const place = make("small", { text: address });
  const state = make("span", { class: "state" });
  const [sessions, share, filled, fairMark] = [make("span"), make("small"), make("i"), make("b")];
  const [rate, weight, verdict, took, failed, since] = ["span", "span", "span", "small", "span", "span"].map((tag) => make(tag));
  const button = make("button", { type: "button", class: "quiet" });
  const buttonCell = make("td", { class: "act wide" }, button);
  const element = make("tr", {},
    make("th", { scope: "row" }, name, place),
    make("td", { class: "is" }, state),
    cell("Sessions", "share wide", sessions, " ", share, make("div", { class: "bar", "aria-hidden": "true" }, filled, fairMark)),
    cell("New/s", "number", rate), cell("Weight", "number", weight), cell("Connect failed", "number", failed),
    cell("Check", "check", verdict, " ", took), cell("In state for", "number", since), buttonCell);
  let now;
  let before;
  button.addEventListener("click", () => press(now.state === "draining" ? "ready" : "drain", now));
  const update = ({ server, fair, most }) => {
    now = server;
    say(place, server.name_problem ? `${address}: ${server.name_problem}` : server.resolved ? `${address} → ${server.resolved}` : address);
    mark(state, ...(STATES[server.state] ?? ["", server.state]));
    say(sessions, count(server.sessions));
    say(share, takes(server) ? `fair share ${count(Math.round(fair))}` : "");
    fairMark.hidden = !takes(server);
    fairMark.style.left = `${(100 * fair) / most}%`;
    filled.style.width = `${(100 * server.sessions) / most}%`;
    const at = Date.now() / 1000;
    if (before && at - before.at >= 0.5) say(rate, count(Math.round((server.sessions_total - before.total) / (at - before.at))));
    else if (!before) say(rate, "–");
    before = { at, total: server.sessions_total };
    say(weight, count(server.weight));
    const check = server.check;
    mark(verdict, check ? (VERDICTS[check.verdict] ?? "bad") : "", check?.verdict ?? "none yet");
    say(took, check ? `${count(check.milliseconds)} ms${check.detail ? ` · ${check.detail}` : ""}` : "");
    say(failed, count(server.connect_failures));
    say(since, server.in_state_seconds === undefined ? "–" : long(server.in_state_seconds));
    button.hidden = server.state === "gone";
    say(button, server.state === "draining" ? "Ready" : "Drain");
    button.setAttribute("aria-label", `${button.textContent} ${server.name}`);
  };
  return { element, update };
}

function rowsOf(table, columns, rows) {
  if (!table.tBodies.length) {
    table.append(make("thead", {}, make("tr", {}, ...columns.map(([text, kind]) => make("th", { scope: "col", class: kind, text })))), make("tbody"));
  }
  keep(table.tBodies[0], rows, () => {
    const element = make("tr");
    return { element, update: (cells) => cells.forEach((cell, at) => setCell(element, at, cell, columns[at][1])) };
  });
}

function setCell(row, at, cell, kind) {
  const there = row.children[at] ?? row.appendChild(make(at === 0 ? "th" : "td", at === 0 ? { scope: "row" } : { class: kind }));
  if (!Array.isArray(cell)) return say(there, cell);
  if (!there.firstElementChild) there.append(make("span"));
  mark(there.firstElementChild, ...cell);
}

const STAGES = {
  closing: ["warn", "under way"], waiting: ["warn", "waits: no other server takes clients"], following: ["warn", "coming back"], done: ["good", "done"], stopped: ["", "stopped"],
};

// Drains and rebalances: how many were told to leave, and where they are now.
function showMoves(moves) {
  $("moves-section").hidden = moves.length === 0;
  const told = ({ closed, planned, rate }) => `${count(closed)} of ${count(planned)} told to leave, ${rate}`;
  const now = (move) => [
    ...Object.entries(move.moved_to).map(([server, number]) => `${count(number)} at ${server}`),
    ...(move.returned_to_it ? [`${count(move.returned_to_it)} back where they were`] : []),
    ...(move.not_returned ? [`${count(move.not_returned)} not back yet`] : []),
    ...(move.failed ? [`${count(move.failed)} not let in`] : []),
  ].join(", ");
  const row = (move, at) => [`${at}`, [
    `${move.kind === "drain" ? `Drain of ${move.server}` : "Rebalance"}\n${move.backend}, ${long(move.seconds)}`,
    STAGES[move.stage] ?? ["", move.stage], told(move), now(move) || "–",
  ]];
  rowsOf($("moves"), [["What", ""], ["Stage", ""], ["Progress", ""], ["Where they are", ""]], moves.map(row));
}

const rates = new Map();

function showFrontends(frontends) {
  const rate = ({ name, connections_total: total }) => {
    const [before, at] = [rates.get(name), Date.now() / 1000];
    rates.set(name, { at, total });
    return before && at > before.at ? count(Math.round((total - before.total) / (at - before.at))) : "–";
  };
  const row = (frontend) =>
    [frontend.name, [frontend.name, count(frontend.connections), rate(frontend), frontend.backends.join(", ")]];
  const columns = [["Name", ""], ["Connections", "number"], ["New/s", "number"], ["Backends", ""]];
  rowsOf($("frontends"), columns, frontends.map(row));
}

function showCertificates(groups) {
  const all = groups.flatMap((group) => (group.certificates ?? []).map((own) => ({ ...own, problem: group.problem })));
  $("certificates-section").hidden = all.length === 0;
  const left = ({ not_after: end, problem }) => {
    if (problem) return ["bad", `not reloaded: ${problem}`];
    if (end === null || end === undefined) return ["", "unknown"];
    const days = Math.floor((end - Date.now() / 1000) / 86400);
    if (days < 0) return ["bad", "expired"];
    return [days <= SOON ? "warn" : "good", days === 1 ? "1 day left" : `${count(days)} days left`];
  };
  const row = (own) => [own.file, [`${own.names.join(", ") || "no name"}\n${own.file}`, left(own)]];
  rowsOf($("certificates"), [["Certificate", ""], ["Valid", ""]], all.map(row));
}

// --- the buttons -----------------------------------------------------------------------------------------------------

let canMove = false; // whether a drain can tell sessions to leave

async function press(what, server) {
  const sessions = server.sessions === 1 ? "1 session" : `${count(server.sessions)} sessions`;
  const text = what === "drain"
    ? `${server.name} (${server.address}) gets no new sessions. It has ${sessions} now.`
    : `${server.name} (${server.address}) gets sessions again once it has passed a check.`;
  const mayMove = canMove && what === "drain" && server.sessions > 0;
  const [title, yes] = what === "drain" ? [`Drain ${server.name}?`, "Drain"] : [`Make ${server.name} ready?`, "Ready"];
  if (!(await agreed(title, text, yes, mayMove))) return;
  const moves = mayMove && document.querySelector("[name=sessions]:checked").value === "leave";
  const rate = moves ? { rate: `${$("ask-rate").value}/s` } : {};
  try {
    const { servers } = await ask(`/api/${what}`, { server: server.name, ...rate });
    tell("", servers.map((told) => `${told.name} is ${(STATES[told.state] ?? ["", told.state])[1]} now.`).join(" "));
  } catch (error) {
    tell("bad", error instanceof Problem ? `${server.name}: ${error.message}` : "The balancer did not answer. Nothing is known to have changed.");
  }
  look();
}

function agreed(title, text, yes, mayMove) {
  const dialog = $("ask");
  say($("ask-title"), title);
  say($("ask-text"), text);
  say($("ask-yes"), yes);
  $("ask-sessions").hidden = !mayMove;
  $("ask-sessions").disabled = !mayMove;
  document.querySelector("[name=sessions][value=stay]").checked = true;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

let forget;

function tell(kind, text) {
  clearTimeout(forget);
  $("result").className = `banner ${kind}`;
  say($("result"), text);
  $("result").hidden = false;
  forget = setTimeout(() => { $("result").hidden = true; }, 15000);
}

// --- the graphs ------------------------------------------------------------------------------------------------------

let samples = [];
let now = 0; // seconds, on the samples' clock

function remember(history) {
  now = history.now;
  samples.push(...history.samples);
  samples = samples.filter((sample) => sample.at > now - SPAN);
  graphs.forEach((graph) => graph.draw());
}

const graphs = [
  graph("Sessions", count, [["sessions", ""]]),
  graph("New connections per second", count, [["connections", ""]]),
  graph("Traffic", bytes, [["bytes_in", "in"], ["bytes_out", "out"]]),
];

// 1, 2 or 5 times a power of ten, so that the scale seldom changes.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// A curve for each `[field of a sample, its name]`.
function graph(title, format, curves) {
  const svg = drawn("svg", { viewBox: `0 0 ${SPAN} 100`, preserveAspectRatio: "none", role: "img" });
  for (const y of [0, 50, 100]) svg.append(drawn("path", { class: "grid", d: `M0 ${y}H${SPAN}` }));
  const pointer = drawn("path", { class: "grid", d: "" });
  const area = drawn("path", { class: "area" });
  const lines = curves.map((_, at) => drawn("path", { class: at ? "curve second" : "curve" }));
  svg.append(area, ...lines, pointer);
  const top = make("span", { class: "top" });
  const when = make("span", { text: "15 min ago" });
  const values = curves.map((_, at) => make("span", { class: at ? "now second" : "now" }));
  if (curves.length > 1) values.forEach((value, at) => value.classList.add("key", at ? "second" : "first"));
  const caption = make("figcaption", {}, make("span", { class: "name", text: title }), ...values);
  const plot = make("div", { class: "plot" }, svg, top);
  $("graphs").append(make("figure", {}, caption, plot, make("div", { class: "axis", "aria-hidden": "true" }, when, make("span", { text: "now" }))));
  let pointed = null; // seconds before now

  const x = (at) => SPAN - (now - at);
  const draw = () => {
    const fields = curves.map(([field]) => field);
    const peak = Math.max(0, ...samples.flatMap((sample) => fields.map((field) => sample[field])));
    const scale = ceiling(peak);
    say(top, format(scale));
    const y = (value) => (100 - (100 * value) / scale).toFixed(2);
    fields.forEach((field, at) => {
      const point = (sample, index) => `${index && sample.at - samples[index - 1].at < 4 ? "L" : "M"}${x(sample.at)} ${y(sample[field])}`;
      lines[at].setAttribute("d", samples.map(point).join(""));
    });
    const edge = (sample) => `${x(sample.at)} ${y(sample[fields[0]])}`;
    area.setAttribute("d", samples.length ? `M${x(samples[0].at)} 100L${samples.map(edge).join("L")}L${x(samples.at(-1).at)} 100Z` : "");
    read(peak);
  };
  const read = (peak) => {
    const past = pointed === null ? undefined : samples.findLast((sample) => sample.at <= now - pointed) ?? samples[0];
    const shown = past ?? samples.at(-1);
    if (!shown) return;
    values.forEach((value, at) => say(value, `${curves[at][1]} ${format(shown[curves[at][0]])}`.trim()));
    pointer.setAttribute("d", past ? `M${x(past.at)} 0V100` : "");
    say(when, past ? `${long(now - past.at)} ago` : "15 min ago");
    const told = curves.map(([field, name]) => `${name} ${format(samples.at(-1)[field])}`.trim()).join(", ");
    svg.setAttribute("aria-label", `${title}: ${told} now; ${format(peak)} at most in 15 minutes`);
  };
  plot.addEventListener("pointermove", (event) => {
    const { left, width } = plot.getBoundingClientRect();
    pointed = SPAN * (1 - (event.clientX - left) / width);
    draw();
  });
  plot.addEventListener("pointerleave", () => { pointed = null; draw(); });
  return { draw };
}

document.addEventListener("visibilitychange", look);
look();
