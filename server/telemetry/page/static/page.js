// The live page: a state, kept up to date by server-sent events, drawn where it has changed. server/telemetry/page/ makes the state;
// in a page that was written to a file it stands in the page. Text becomes text nodes only, never markup.
"use strict";
(() => {
  const STATES = ["idle", "asked", "contributed", "abstains", "gone", "not seen", "revoked", "took part", "did not take part"];
  const [, ASKED, CONTRIBUTED, ABSTAINS, GONE, NOT_SEEN, REVOKED] = STATES.keys();
  const TONES = { working: "●", waiting: "◌", paused: "‖", done: "✓", bad: "!" };
  const LEVELS = { critical: "Critical", warning: "Warning", note: "Note" };
  const CARDS = 40;  // a fleet of more is shown as squares
  const SAY_EVERY_MS = 8000;
  const ROW = { contributed: 0, changed: 1, memory: 2, up: 3, down: 4, examples: 5, version: 6, agrees: 7, software: 8, why: 9 };

  const byId = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  // Text for people, as common/text.py writes it.
  const significant = (value) => value >= 99.95 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  const amount = (bytes) => {
    let value = bytes, unit = "B";
    for (unit of ["B", "kB", "MB", "GB"]) { if (value < 999.5 || unit === "GB") break; value /= 1000; }
    return `${unit === "B" ? value.toFixed(0) : significant(value)} ${unit}`;
  };
  const duration = (seconds) => {
    const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  };
  const whole = (number) => number.toLocaleString("en-US");
  const counted = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
  const shown = (metric, value) => value === null || value === undefined ? "not finite"
    : metric.share ? `${(100 * value).toFixed(1)} %` : String(Number(value.toPrecision(4)));
  const loss = (value) => value === null || value === undefined ? "not finite" : value.toFixed(value < 0.1 ? 3 : 2);

  // The state.
  let run = null, now = {}, at = 0, offset = 0;
  let devices = [], codes = [], rows = [], curve = [], uplink = [];
  const lit = new Set(), turned = new Set();
  let dirty = { now: true, curve: true, uplink: true, fleet: true, rows: true };
  let drawing = false, ended = "", over = false, heard = 0, connected = false;

  function wholeState(state) {
    ({ run, now, devices, codes, rows, curve, uplink } = state);
    clock(state.at);
    lit.clear(); turned.clear();
    dirty = { now: true, curve: true, uplink: true, fleet: true, rows: true };
    drawSoon();
  }
  function change(found) {
    clock(found.at);
    if (found.now) { Object.assign(now, found.now); dirty.now = true; }
    for (const device of found.devices ?? []) { devices.push(device); codes.push(-1); rows.push([]); dirty.fleet = true; }
    for (let place = 0; place < (found.codes ?? []).length; place += 2) {
      codes[found.codes[place]] = found.codes[place + 1];
      turned.add(found.codes[place]);
    }
    for (const number of found.lit ?? []) lit.add(number);
    for (const [number, ...row] of found.rows ?? []) { rows[number] = row; turned.add(number); dirty.rows = true; }
    if (found.curve_anew) { curve = found.curve_anew; dirty.curve = true; }
    if (found.curve) { curve.push(...found.curve); dirty.curve = true; }
    if (found.uplink_anew) { uplink = found.uplink_anew; dirty.uplink = true; }
    if (found.uplink) { uplink.push(...found.uplink); dirty.uplink = true; }
    drawSoon();
  }
  function clock(reading) { at = reading; offset = reading - Date.now() / 1000; }
  const reading = () => run && !run.live ? at : Date.now() / 1000 + offset;

  function drawSoon() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; draw(); });
  }
  function draw() {
    if (!run) return;
    if (dirty.now) { drawHead(); drawNow(); drawWarnings(); drawTiles(); drawFacts(); drawTraffic(); }
    if (dirty.curve || dirty.now) drawCurve();
    if (dirty.uplink) drawUplink();
    if (dirty.fleet) buildFleet(); else drawFleet();
    if (dirty.now || turned.size || dirty.fleet) { drawRound(); drawStates(); }
    if (dirty.rows || turned.size) drawChosen();
    turned.clear(); lit.clear();
    dirty = { now: false, curve: false, uplink: false, fleet: false, rows: false };
  }

  // The head, the sentence, the way.
  function drawHead() {
    put(byId("name"), run.name);
    put(byId("what"), `${run.model}, ${whole(run.parameters)} parameters: ${run.warmup ? `${counted(run.warmup, "round")} of ${run.algorithms[0]}, then ` : ""}${run.algorithms[1]}`);
    put(byId("foot"), `Run ${run.id}, ${run.software}, digest ${now.digest}`);
    const metric = run.metrics[0], found = now.evaluation;
    document.title = found ? `${shown(metric, found.metrics[metric.name])} · ${run.name}` : run.name;
    put(byId("curve-title"), `${metric.title[0].toUpperCase()}${metric.title.slice(1)} and loss`);
  }
  let said = "", saidAt = 0, saying = 0;
  function say(text) {
    const kind = text.replace(/[0-9]+([.,][0-9]+)?/g, "#").split(" (")[0];
    if (kind === said) return;
    clearTimeout(saying);
    saying = setTimeout(() => { said = kind; saidAt = Date.now(); put(byId("said"), text); },
      Math.max(0, saidAt + SAY_EVERY_MS - Date.now()));
  }
  function drawNow() {
    const tone = ended ? "waiting" : now.tone;
    byId("sentence").dataset.tone = tone;
    put(byId("tone"), TONES[tone] ?? "");
    const text = ended || now.sentence;
    put(byId("sentence-text"), text[0].toUpperCase() + text.slice(1));
    say(text);
    const final = Math.max(1, now.final), share = (version) => `${Math.min(100, 100 * version / final)}%`;
    byId("way-done").style.width = share(now.version);
    byId("way-pivot").style.left = share(now.pivot.at);
    byId("way-pivot").hidden = now.pivot.at <= 0 || now.pivot.at >= final;
    const way = byId("way");
    way.setAttribute("aria-valuemax", final);
    way.setAttribute("aria-valuenow", Math.min(final, now.version));
    way.setAttribute("aria-valuetext", `version ${now.version} of ${now.final}, pivot at ${now.pivot.at}, phase ${now.phase}`);
    put(byId("way-left"), `Version ${whole(now.version)} of ${whole(now.final)}, ${now.phase}`);
    const pivot = now.pivot.made ? `pivot at version ${whole(now.pivot.at)}` : `pivot after version ${whole(now.pivot.at)}`;
    put(byId("way-right"), now.left ? `${pivot}; ${now.left}` : pivot);
  }
  function drawLink() {
    let state = "connecting", text = "connecting";
    if (run && !run.live) { state = "file"; text = `as of ${new Date(1000 * at).toISOString().slice(0, 16).replace("T", " ")} UTC`; }
    else if (over) { state = "over"; text = "the coordinator has stopped"; }
    else if (connected) { state = "live"; text = "live"; }
    else if (heard) { state = "lost"; text = `no answer for ${duration((Date.now() - heard) / 1000)}; trying again`; }
    byId("link").dataset.state = state;
    put(byId("link-text"), text);
  }
  function drawWarnings() {
    const list = byId("warning-list"), key = JSON.stringify(now.warnings);
    byId("warnings").hidden = !now.warnings.length;
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    list.replaceChildren(...now.warnings.map(([level, text]) =>
      make("li", { "data-level": level }, make("b", {}, LEVELS[level] ?? level), make("span", {}, text[0].toUpperCase() + text.slice(1)))));
  }

  // Figures.
  function tableOf(list, entries) {
    entries.forEach(([title, value, beside], place) => {
      let entry = list.children[place];
      if (!entry) {
        entry = make("div", {}, make("dt"), make("dd", { class: "value" }), make("dd", { class: "beside" }));
        list.append(entry);
      }
      [title, value, beside].forEach((text, part) => put(entry.children[part], text));
    });
  }
  const uploaded = () => now.traffic.reduce((sum, [tier, , up]) => sum + (tier ? up : 0), 0);
  const fedavg = () => uplink.length ? uplink[uplink.length - 1][3] : 0;
  function drawTiles() {
    const metric = run.metrics[0], found = now.evaluation, pivot = now.at_pivot;
    const members = Object.values(now.fleet).reduce((sum, tier) => sum + tier.members, 0);
    const here = Object.values(now.fleet).reduce((sum, tier) => sum + tier.connected, 0);
    const tiers = Object.entries(now.fleet).filter(([, tier]) => tier.members).map(([name, tier]) => `${whole(tier.members)} ${name}-tier`).join(", ");
    const sent = uploaded(), wholeSent = fedavg();
    const low = now.traffic.find(([tier, phase, , , each]) => tier === "low" && phase === "zeroth-order" && each);
    const saved = sent && wholeSent ? wholeSent > sent ? `${significant(wholeSent / sent)} times less than FedAvg` : `FedAvg: ${amount(wholeSent)}` : "from all devices";
    tableOf(byId("tiles"), [
      [metric.title, found ? shown(metric, found.metrics[metric.name]) : "–",
        !found ? "not evaluated yet" : pivot && pivot.version !== found.version ? `${shown(metric, pivot.metrics[metric.name])} at the pivot` : `at version ${whole(found.version)}`],
      ["uploaded", sent ? amount(sent) : "–", saved],
      ["each contribution", low ? amount(low[4]) : "–", low ? "up, low tier, after the pivot" : "none after the pivot yet"],
      ["devices", run.live ? `${whole(here)} of ${whole(members)}` : whole(members), `${run.live ? "connected" : "enrolled"}${tiers ? `: ${tiers}` : ""}`],
    ]);
  }
  function drawFacts() {
    const entries = [["phase", now.phase], ["version", `${whole(now.version)} of ${whole(now.final)}`],
      ["pivot", now.pivot.made ? `at version ${whole(now.pivot.at)}: ${now.pivot.reason}` : `after version ${whole(now.pivot.at)}`]];
    if (now.evaluation) {
      for (const metric of run.metrics) entries.push([metric.title, `${shown(metric, now.evaluation.metrics[metric.name])} of ${counted(now.evaluation.examples, "example")} at version ${whole(now.evaluation.version)}`]);
      entries.push(["loss", `${loss(now.evaluation.loss)} nats`]);
    }
    entries.push(["contributions", whole(now.contributions)]);
    if (now.left) entries.push(["left", now.left]);
    for (const [name, tier] of Object.entries(now.fleet)) {
      if (!tier.members) continue;
      const peak = rows.reduce((most, row, number) => devices[number][1] === name ? Math.max(most, row[ROW.memory] || 0) : most, 0);
      const here = run.live ? `${whole(tier.connected)} of ${counted(tier.members, "device")} connected` : counted(tier.members, "device");
      entries.push([`${name} tier`, here + (peak ? `, peak memory ${amount(peak)}` : "")]);
    }
    const facts = byId("facts");
    while (facts.children.length > 2 * entries.length) facts.lastChild.remove();
    entries.forEach(([title, text], place) => {
      if (facts.children.length <= 2 * place) facts.append(make("dt"), make("dd"));
      put(facts.children[2 * place], title);
      put(facts.children[2 * place + 1], text);
    });
  }
  const head = (titles) => make("thead", {}, make("tr", {}, ...titles.map(([title, text]) => make("th", { scope: "col", class: text }, title))));
  const line = (cells) => make("tr", {}, ...cells.map(([text, kind]) => make("td", { class: kind }, text)));
  function drawTraffic() {
    byId("traffic").replaceChildren(
      head([["payload", "text"], ["phase", "text"], ["up"], ["down"], ["up, each"]]),
      make("tbody", {}, ...now.traffic.map(([tier, phase, up, down, each]) =>
        line([[tier ? `${tier} tier` : "not yet enrolled", "text"], [phase, "text"], [amount(up)], [amount(down)], [each ? amount(each) : "–"]]))));
  }

  // Curves.
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = {};
  function chart(id, series, scales, axes, read) {
    const place = byId(id);
    charts[id]?.destroy();
    place.replaceChildren();
    const size = () => ({ width: Math.max(200, place.clientWidth), height: place.clientHeight });
    const font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, Arial, 'DejaVu Sans', sans-serif";
    const plain = { stroke: style("--quiet"), font, ticks: { show: false } };
    const ratio = devicePixelRatio || 1;
    charts[id] = new uPlot({
      ...size(), legend: { show: false }, padding: [10, 8, 0, 0],
      cursor: { y: false, drag: { setScale: false }, points: { size: 7 } },
      scales: { x: { time: false, range: () => [0, Math.max(1, now.version)] }, ...scales },
      series: [{}, ...series],
      axes: [{ ...plain, grid: { show: false }, values: (_, splits) => splits.map((v) => Number.isInteger(v) ? whole(v) : null), size: 30, gap: 6 },
        ...axes.map((axis) => ({ ...plain, gap: 6, grid: { show: axis.side !== 1, stroke: style("--faint"), width: 1 }, ...axis }))],
      hooks: {
        drawClear: [(u) => {  // the warm-up, up to the pivot
          const left = u.bbox.left, right = u.valToPos(Math.min(now.pivot.at, now.version), "x", true);
          u.ctx.fillStyle = style("--warm");
          if (now.pivot.at > 0) u.ctx.fillRect(left, u.bbox.top, right - left, u.bbox.height);
        }],
        drawAxes: [(u) => {  // below the curves
          if (!now.pivot.made || now.pivot.at < 1) return;
          const x = u.valToPos(now.pivot.at, "x", true), late = x > u.bbox.left + 0.8 * u.bbox.width;
          u.ctx.save();
          u.ctx.strokeStyle = u.ctx.fillStyle = style("--quiet");
          u.ctx.lineWidth = ratio;
          u.ctx.setLineDash([3 * ratio, 3 * ratio]);
          u.ctx.beginPath(); u.ctx.moveTo(x, u.bbox.top); u.ctx.lineTo(x, u.bbox.top + u.bbox.height); u.ctx.stroke();
          u.ctx.font = font.replace("12px", `${12 * ratio}px`);
          u.ctx.textAlign = late ? "right" : "left";
          const y = u.bbox.top + (id === "curve" ? u.bbox.height - 10 * ratio : 14 * ratio);
          u.ctx.fillText("pivot", x + (late ? -6 : 6) * ratio, y);
          u.ctx.restore();
        }],
        setCursor: [(u) => read(u.cursor.idx)],
      },
    }, [[], ...series.map(() => [])], place);
    return charts[id];
  }
  const columns = (points, width) => Array.from({ length: width }, (_, column) => points.map((point) => point[column]));
  function legend(id, entries) {
    const place = byId(id);
    entries.forEach(([kind, colour, text], number) => {
      if (place.children.length <= number) place.append(make("span", {}, make("i", { class: "line" }), make("span")));
      const sample = place.children[number].firstChild;
      sample.className = `line ${kind}`;
      sample.style.color = style(colour);
      put(place.children[number].lastChild, text);
    });
  }
  const empty = (id, text) => {
    const old = byId(id).querySelector(".empty");
    if (!text) old?.remove();
    else if (!old) byId(id).append(make("p", { class: "empty" }, text));
  };
  function readCurve(index) {
    const metric = run.metrics[0], point = curve[index ?? curve.length - 1];
    legend("curve-legend", [
      ["", "--ink", point ? `${metric.title} ${shown(metric, point[1])}` : metric.title],
      ["dashed", "--high", point ? `loss ${loss(point[2])} nats` : "loss, nats"]]);
    if (point && index !== null && index !== undefined) byId("curve-legend").dataset.version = point[0];
  }
  function drawCurve() {
    const metric = run.metrics[0];
    const u = charts.curve ?? chart("curve",
      [{ scale: "metric", stroke: style("--ink"), width: 2.4, points: { show: (c) => c.data[0].length < 2 }, spanGaps: true },
        { scale: "loss", stroke: style("--high"), width: 1.6, dash: [5, 4], points: { show: false }, spanGaps: true }],
      { metric: { range: (_, low, high) => metric.share ? [0, 1] : [Math.min(0, low ?? 0), (high ?? 1) * 1.05 || 1] }, loss: { range: (_, low, high) => [0, (high ?? 1) * 1.08 || 1] } },
      [{ scale: "metric", size: 48, values: (_, splits) => splits.map((v) => metric.share ? `${Math.round(100 * v)} %` : String(Number(v.toPrecision(3)))) },
        { scale: "loss", side: 1, size: 40, values: (_, splits) => splits.map((v) => String(Number(v.toPrecision(3)))) }], readCurve);
    u.setData(columns(curve, 3));
    empty("curve", curve.length ? "" : "No version has been evaluated yet");
    readCurve(null);
    const last = curve[curve.length - 1];
    if (last) byId("curve").setAttribute("aria-label", `${metric.title} ${shown(metric, last[1])} and loss ${loss(last[2])} nats at version ${last[0]}, of ${curve.length} evaluated${now.pivot.made ? `; the pivot was at version ${now.pivot.at}` : ""}.`);
    if (byId("curve-details").open) byId("curve-table").replaceChildren(head([["version"], [metric.title], ["loss, nats"]]),
      make("tbody", {}, ...curve.toReversed().map(([version, value, nats]) => line([[whole(version)], [shown(metric, value)], [loss(nats)]]))));
  }
  function readUplink(index) {
    const point = uplink[index ?? uplink.length - 1], text = (name, bytes) => point ? `${name} ${amount(bytes)}` : name;
    legend("uplink-legend", [["", "--high", text("high tier", point?.[1])], ["", "--low", text("low tier", point?.[2])],
      ["dashed", "--quiet", text("FedAvg", point?.[3])]]);
  }
  const decades = (_, splits) => splits.map((v) => v && Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-6 ? v : null);
  function drawUplink() {
    const u = charts.uplink ?? chart("uplink",
      [{ scale: "bytes", stroke: style("--high"), width: 2.4, points: { show: false }, spanGaps: true },
        { scale: "bytes", stroke: style("--low"), width: 2.4, points: { show: false }, spanGaps: true },
        { scale: "bytes", stroke: style("--quiet"), width: 1.6, dash: [5, 4], points: { show: false }, spanGaps: true }],
      { bytes: { distr: 3, range: (_, low, high) => [10 ** Math.floor(Math.log10(low || 1000)), 10 ** Math.ceil(Math.log10((high || 1e6) * 1.2))] } },
      [{ scale: "bytes", size: 58, filter: decades, grid: { stroke: style("--faint"), width: 1, filter: decades }, values: (_, splits) => splits.map((v) => v ? amount(v) : null) }], readUplink);
    u.setData(columns(uplink, 4).map((column, place) => place ? column.map((bytes) => bytes || null) : column));
    empty("uplink", uplink.length ? "" : "No version has been committed yet");
    readUplink(null);
    const last = uplink[uplink.length - 1];
    if (last) byId("uplink").setAttribute("aria-label", `Bytes uploaded by version ${last[0]}, logarithmic: high tier ${amount(last[1])}, low tier ${amount(last[2])}; as many rounds of FedAvg would have uploaded ${amount(last[3])}.`);
    if (byId("uplink-details").open) byId("uplink-table").replaceChildren(head([["version"], ["high tier"], ["low tier"], ["FedAvg"]]),
      make("tbody", {}, ...uplink.toReversed().map(([version, ...bytes]) => line([[whole(version)], ...bytes.map((one) => [amount(one)])]))));
  }
  function redrawCharts() {
    for (const id of Object.keys(charts)) { charts[id].destroy(); delete charts[id]; }
    dirty.curve = dirty.uplink = true;
    drawSoon();
  }

  // Devices.
  let cells = [], chosen = -1;
  const ago = (instant) => instant ? `${duration(Math.max(0, reading() - instant))} ago` : "never";
  function seen(number) {
    const row = rows[number] ?? [], code = codes[number];
    if (code === GONE) return `last seen ${ago(row[ROW.changed])}`;
    return row[ROW.contributed] ? `contributed ${ago(row[ROW.contributed])}` : "has not contributed";
  }
  function bytes(number) {
    const row = rows[number] ?? [];
    return [row[ROW.up] ? `↑ ${amount(row[ROW.up])}` : "", row[ROW.down] ? `↓ ${amount(row[ROW.down])}` : "", row[ROW.memory] ? amount(row[ROW.memory]) : ""].filter(Boolean).join("  ");
  }
  function buildFleet() {
    const grid = byId("grid"), asCards = devices.length <= CARDS;
    const groups = new Map();
    devices.forEach(([, tier], number) => { if (!groups.has(tier)) groups.set(tier, []); groups.get(tier).push(number); });
    const natural = new Intl.Collator("en", { numeric: true });
    for (const numbers of groups.values()) numbers.sort((a, b) => natural.compare(devices[a][0], devices[b][0]));
    cells = [];
    const order = ["high", "low"].filter((tier) => groups.has(tier));
    grid.replaceChildren(...order.map((tier) => {
      const numbers = groups.get(tier);
      const box = make("div", { class: asCards ? "cards" : "cells", role: "group", "aria-label": `Devices of the ${tier} tier` });
      for (const number of numbers) {
        const cell = make("button", { type: "button", class: "cell", "aria-pressed": "false", tabindex: "-1" }, make("span", { class: "mark" }));
        if (asCards) cell.append(make("b"), make("small"), make("small"));
        cell.addEventListener("click", () => choose(number));
        cells[number] = cell;
        box.append(cell);
      }
      return make("div", { class: "tier", "data-tier": tier }, make("h3", {}, `${tier[0].toUpperCase()}${tier.slice(1)} tier, ${counted(numbers.length, "device")}`), box);
    }));
    if (!devices.length) grid.replaceChildren(make("p", { class: "quiet" }, "No device has enrolled yet."));
    const first = order.length ? groups.get(order[0])[0] : -1;
    if (!cells[chosen]) chosen = -1;
    if (first >= 0) cells[chosen >= 0 ? chosen : first].tabIndex = 0;
    for (let number = 0; number < devices.length; number += 1) drawCell(number);
    if (chosen >= 0) cells[chosen].setAttribute("aria-pressed", "true");
    drawDeviceTable();
  }
  function drawCell(number) {
    const cell = cells[number], code = codes[number];
    if (!cell) return;
    const name = devices[number][0], state = STATES[code] ?? "";
    if (cell.dataset.code !== String(code)) cell.dataset.code = code;
    if (cell.children.length > 1) {
      put(cell.children[1], name);
      put(cell.children[2], code === GONE ? `gone for ${duration(Math.max(0, reading() - (rows[number]?.[ROW.changed] ?? reading())))}` : `${state}${code === CONTRIBUTED || code === ASKED || !run.live ? "" : `, ${seen(number)}`}`);
      const last = rows[number]?.[ROW.contributed];
      put(cell.children[3], bytes(number) || (run.live || !last ? "–" : `last ${new Date(1000 * last).toISOString().slice(0, 16).replace("T", " ")} UTC`));
    } else cell.setAttribute("aria-label", `${name}: ${state}`);
  }
  function drawFleet() {
    for (const number of turned) drawCell(number);
    for (const number of lit) {
      const cell = cells[number];
      if (cell) { const again = cell.classList.contains("lit-a"); cell.classList.toggle("lit-a", !again); cell.classList.toggle("lit-b", again); }
    }
    if (byId("device-details").open) for (const number of turned) drawDeviceRow(number);
  }
  function drawRound() {
    const round = now.round, done = byId("round-done");
    let text = run.live ? "No round is open" : "", share = 0;
    if (round && run.live) {
      const missing = devices.filter((_, number) => codes[number] === ASKED).map(([name]) => name);
      const names = missing.length > 6 ? `${missing.slice(0, 5).join(", ")} and ${missing.length - 5} more` : missing.join(", ");
      const left = round.deadline ? `, ${duration(Math.max(0, round.deadline - reading()))} left` : "";
      text = round.closed ? `Round ${whole(round.number)} is being aggregated: ${round.closed}`
        : `Round ${whole(round.number)}: ${round.contributed} of ${round.drawn} drawn have contributed${round.needed < round.drawn ? ` (${round.needed} are needed)` : ""}${left}${names ? `; waiting for ${names}` : ""}`;
      share = round.drawn ? round.contributed / round.drawn : 0;
    } else if (now.phase === "finished") text = "The last round is over";
    put(byId("round-text"), text);
    byId("round").hidden = !text;
    done.style.width = `${100 * share}%`;
  }
  function drawStates() {
    const counts = new Array(STATES.length).fill(0);
    for (const code of codes) if (code >= 0) counts[code] += 1;
    const wanted = run.live ? [0, ASKED, CONTRIBUTED, ABSTAINS, GONE, NOT_SEEN, REVOKED] : [7, 8, REVOKED];
    const kept = wanted.filter((code) => counts[code] || (run.live && code <= CONTRIBUTED) || code === GONE && run.live);
    const place = byId("states"), key = kept.join();
    if (place.dataset.key !== key) {
      place.dataset.key = key;
      place.replaceChildren(...kept.map((code) => make("span", { "data-code": code }, make("i", { class: "mark" }), make("span"))));
    }
    kept.forEach((code, number) => put(place.children[number].lastChild, `${whole(counts[code])} ${STATES[code]}`));
  }
  function choose(number) {
    if (cells[chosen]) { cells[chosen].setAttribute("aria-pressed", "false"); cells[chosen].tabIndex = -1; }
    for (const cell of cells) if (cell.tabIndex === 0) cell.tabIndex = -1;
    chosen = number;
    cells[number].tabIndex = 0;
    cells[number].setAttribute("aria-pressed", "true");
    drawChosen();
  }
  function drawChosen() {
    const place = byId("chosen");
    place.hidden = chosen < 0;
    if (chosen < 0) return;
    const [name, tier] = devices[chosen], row = rows[chosen] ?? [], parts = [`${tier} tier`, STATES[codes[chosen]] ?? "", seen(chosen)];
    if (row[ROW.memory]) parts.push(`peak memory ${amount(row[ROW.memory])}`);
    if (row[ROW.up] || row[ROW.down]) parts.push(`${amount(row[ROW.up])} up, ${amount(row[ROW.down])} down`);
    if (row[ROW.examples]) parts.push(counted(row[ROW.examples], "example"));
    if (row[ROW.version] || row[ROW.agrees] !== null) parts.push(`replica at version ${whole(row[ROW.version] ?? 0)}${row[ROW.agrees] === true ? ", equal to the run's" : row[ROW.agrees] === false ? ", NOT the run's" : ""}`);
    if (row[ROW.software]) parts.push(row[ROW.software]);
    if (row[ROW.why]) parts.push(row[ROW.why]);
    if (!place.children.length) place.append(make("b"), make("span"));
    put(place.firstChild, name);
    put(place.lastChild, `: ${parts.filter(Boolean).join("; ")}`);
  }
  byId("grid").addEventListener("keydown", (event) => {
    const number = cells.indexOf(document.activeElement);
    if (number < 0) return;
    const order = [...byId("grid").querySelectorAll(".cell")], place = order.indexOf(document.activeElement);
    const top = (cell) => cell.getBoundingClientRect().top, left = (cell) => cell.getBoundingClientRect().left;
    const vertical = (step) => {
      const from = order[place];
      const row = order.filter((cell) => step * (top(cell) - top(from)) > 4);
      const next = step > 0 ? Math.min(...row.map(top)) : Math.max(...row.map(top));
      return row.filter((cell) => Math.abs(top(cell) - next) < 4).sort((a, b) => Math.abs(left(a) - left(from)) - Math.abs(left(b) - left(from)))[0];
    };
    const to = { ArrowRight: () => order[place + 1], ArrowLeft: () => order[place - 1], Home: () => order[0], End: () => order.at(-1),
      ArrowDown: () => vertical(1), ArrowUp: () => vertical(-1) }[event.key]?.();
    if (!to) return;
    event.preventDefault();
    choose(cells.indexOf(to));
    to.focus();
  });
  let deviceRows = [];
  function deviceCells(number) {
    const [name, tier] = devices[number], row = rows[number] ?? [];
    return [name, tier, STATES[codes[number]] ?? "", row[ROW.contributed] ? ago(row[ROW.contributed]) : "–", codes[number] === GONE ? ago(row[ROW.changed]) : "–",
      row[ROW.memory] ? amount(row[ROW.memory]) : "–", row[ROW.up] ? amount(row[ROW.up]) : "–", row[ROW.down] ? amount(row[ROW.down]) : "–", row[ROW.software] || "–"];
  }
  function drawDeviceTable() {
    if (!byId("device-details").open) return;
    deviceRows = devices.map((_, number) => line(deviceCells(number).map((text, place) => [text, place < 3 || place > 7 ? "text" : undefined])));
    byId("device-table").replaceChildren(
      head([["device", "text"], ["tier", "text"], ["state", "text"], ["contributed"], ["gone since"], ["memory"], ["up"], ["down"], ["program", "text"]]),
      make("tbody", {}, ...deviceRows));
  }
  function drawDeviceRow(number) {
    const row = deviceRows[number];
    if (row) deviceCells(number).forEach((text, place) => put(row.children[place], text));
  }

  for (const [id, part] of [["curve-details", "curve"], ["uplink-details", "uplink"]]) byId(id).addEventListener("toggle", () => { dirty[part] = true; drawSoon(); });
  byId("device-details").addEventListener("toggle", drawDeviceTable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  new ResizeObserver(() => { for (const id of Object.keys(charts)) charts[id].setSize({ width: Math.max(200, byId(id).clientWidth), height: byId(id).clientHeight }); }).observe(byId("curve"));

  const data = byId("state");
  if (data) {
    wholeState(JSON.parse(data.textContent));
    drawLink();
    return;
  }
  setInterval(() => {  // what passes while nothing changes: "3 s ago"
    drawLink();
    if (!run) return;
    if (devices.length <= CARDS) for (let number = 0; number < devices.length; number += 1) drawCell(number);
    drawRound();
    drawChosen();
  }, 1000);
  const source = new EventSource("events");
  const listen = (name, act) => source.addEventListener(name, (event) => {
    heard = Date.now();
    act(JSON.parse(event.data));
    drawLink();
  });
  listen("state", (state) => { connected = true; over = false; ended = ""; wholeState(state); });
  listen("change", change);
  listen("end", () => { ended = now.phase === "finished" ? "" : "the coordinator has stopped; the page goes on when it is back"; connected = false; if (now.phase === "finished") source.close(); over = true; dirty.now = true; drawSoon(); });
  source.onerror = () => { connected = false; drawLink(); };
})();
