// The figures of the report. What the reader chose stands in the address (#track=…&stem=…), so that a link can lead to
// it: a choice changes the address, and a changed address draws anew what depends on it.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const scoreNamed = new Map(data.scores.map(score => [score.name, score]));
const framewise = data.scores.filter(score => score.framewise).map(score => score.name);
const boxGroups = new Map([
  ...(framewise.length > 1 ? [[framewise.join(", "), framewise]] : []),
  ...data.scores.map(score => [score.name, [score.name]]),
]);
const options = {
  boxes: [...boxGroups.keys()], stem: data.stems, score: [...scoreNamed.keys()], system: data.systems,
  track: data.tracks, metric: framewise,
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 640px)");
const canHover = matchMedia("(hover: hover)").matches;
const byId = id => document.getElementById(id);

// The choice, read from the address and written to it.

function chosen() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const choice = { hide: data.systems.filter(system => asked.getAll("hide").includes(system)) };
  for (const [key, values] of Object.entries(options))
    choice[key] = values.includes(asked.get(key)) ? asked.get(key) : values[0];
  return choice;
}

function address(changes) {
  const { hide, ...choice } = { ...chosen(), ...changes };
  const pairs = Object.entries(choice).filter(([, value]) => value !== undefined);
  return "#" + new URLSearchParams([...pairs, ...hide.map(system => ["hide", system])]);
}

const choose = changes => location.replace(address(changes));

// Numbers and names.

const finite = value => value !== null && Number.isFinite(Number(value));
const minus = text => text.replace("-", "−");
function written(value, decimals) {
  if (value === null) return "–";
  return finite(value) ? minus(value.toFixed(decimals)) : value > 0 ? "∞" : "−∞";
}
const axisTitle = score => score.unit ? `${score.name} (${score.unit})` : score.name;
// Plotly takes some tags and entities in a text for markup.
const literal = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shortened = (text, length) => text.length > length ? text.slice(0, length - 1).trimEnd() + "…" : text;
const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];
const ascending = values => values.filter(finite).map(Number).sort((one, other) => one - other);
const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

// Colours and what all figures have in common.

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = system => css(`--system-${data.systems.indexOf(system) % 8}`);
const symbol = system => ["circle", "square", "diamond", "triangle-up"][data.systems.indexOf(system) % 4];
const shown = choice => data.systems.filter(system => !choice.hide.includes(system));
const axis = more => ({
  gridcolor: css("--line"), zerolinecolor: css("--faint"), linecolor: css("--line"), fixedrange: true,
  automargin: true, ...more,
});

function plot(div, label, traces, layout) {
  div.setAttribute("aria-label", label);
  const common = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--ink") },
    margin: { l: 50, r: 12, t: 12, b: 40 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--faint"), activecolor: css("--ink") },
    hoverlabel: { bgcolor: css("--band"), bordercolor: css("--line"), font: { color: css("--ink") }, namelength: -1 },
  };
  Plotly.react(div, traces, { ...common, ...layout }, {
    responsive: true, displaylogo: false, doubleClick: "autosize",
    modeBarButtons: [["toImage"]], displayModeBar: canHover ? "hover" : false,
  });
}

// Tables: rows of cells, each a string or an element; the columns from `firstNumber` on are numbers.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function table(caption, headers, rows, isNumber) {
  const cell = (tag, scope) => (content, index) =>
    element(tag, { ...(scope && { scope }), className: isNumber(index) ? "number" : "track" }, content);
  const row = cells => element("tr", {}, ...cells.map((content, index) =>
    index ? cell("td")(content, index) : cell("th", "row")(content, index)));
  const made = element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...headers.map(cell("th", "col")))),
    element("tbody", {}, ...rows.map(row)));
  const region = element("div", { className: "scroll", tabIndex: 0, role: "region" }, made);
  region.setAttribute("aria-label", caption);
  return region;
}

// 1. Box plots.

function drawBoxes(choice) {
  const names = boxGroups.get(choice.boxes), place = byId("boxes"), cut = new Set(), rows = [];
  while (place.children.length > names.length) place.lastChild.remove();
  while (place.children.length < names.length)
    place.append(element("div", {}, element("h3"), element("div", { className: "figure", role: "img" })));
  names.forEach((name, index) => {
    const score = scoreNamed.get(name), [heading, div] = place.children[index].children;
    heading.textContent = axisTitle(score);
    plot(div, `Box plots of ${axisTitle(score)} by stem. Medians: ${medians(choice, score)}.`,
      shown(choice).map(system => boxes(system, score)), {
        height: names.length > 1 ? 300 : 420, boxmode: "group", boxgap: 0.25, boxgroupgap: 0.2,
        margin: { l: 40, r: 8, t: 8, b: 30 },
        xaxis: axis({
          tickvals: data.stems.map((_, at) => at), ticktext: data.stems.map(literal), showgrid: false,
          range: [-0.5, data.stems.length - 0.5], zeroline: false,
        }),
        yaxis: axis({ range: score.range, hoverformat: `.${score.decimals}f`, nticks: 8 }),
      });
    for (const system of shown(choice)) eachBox(system, score, (stem, box, count) => {
      if (box[0] < score.range[0] || box[4] > score.range[1]) cut.add(`${name} of ${system}`);
      rows.push([name, system, stem, String(count), ...box.map(value => written(value, score.decimals))]);
    });
  });
  byId("boxes-note").textContent = cut.size ? `Beyond the axis, at least in part: ${[...cut].join(", ")}.` : "";
  byId("boxes-table").replaceChildren(table("Quantiles over the tracks",
    ["Score", "System", "Stem", "Tracks", "5 %", "25 %", "Median", "75 %", "95 %"], rows, index => index > 2));
}

function eachBox(system, score, visit) {
  const at = data.systems.indexOf(system);
  data.stems.forEach((stem, index) => {
    if (score.boxes[at][index]) visit(stem, score.boxes[at][index], score.counts[at][index], index);
  });
}

function boxes(system, score) {
  const trace = {
    type: "box", name: literal(system), offsetgroup: system, x: [], lowerfence: [], q1: [], median: [], q3: [],
    upperfence: [], line: { color: colour(system), width: 2 }, fillcolor: colour(system) + "40", whiskerwidth: 0.5,
  };
  eachBox(system, score, (stem, box, count, index) => {
    trace.x.push(index);
    ["lowerfence", "q1", "median", "q3", "upperfence"].forEach((key, at) => trace[key].push(box[at]));
  });
  return trace;
}

function medians(choice, score) {
  const found = [];
  for (const system of shown(choice)) eachBox(system, score, (stem, box) =>
    found.push(`${system} ${stem} ${written(box[2], score.decimals)}`));
  return found.join(", ") || "none";
}

// 2. Bars by track.

const valuesOf = (score, system, stem) => score.values[data.systems.indexOf(system)][data.stems.indexOf(stem)];

function ranked(score, system, stem) {
  const values = valuesOf(score, system, stem), sign = score.lessIsBetter ? 1 : -1;
  const order = data.tracks.map((_, at) => at).filter(at => values[at] !== null);
  return order.sort((one, other) => sign * (Number(values[one]) - Number(values[other])) || one - other);
}

function drawBars(choice) {
  const score = scoreNamed.get(choice.score), systems = shown(choice), div = byId("bars");
  const any = at => data.systems.some(system => valuesOf(score, system, choice.stem)[at] !== null);
  const first = ranked(score, choice.system, choice.stem);
  const order = [...first, ...data.tracks.keys()].filter((at, place, all) => any(at) && all.indexOf(at) === place);
  // One slot a track, with the name to the left of the bars or, on a narrow screen, above them.
  const bar = 15, gap = 8, above = narrow.matches ? 18 : 0, slot = above + bar * Math.max(systems.length, 1) + gap;
  const inner = innerRange(ascending(systems.flatMap(system => valuesOf(score, system, choice.stem))));
  const [low, high] = score.range ?? inner, reach = 0.5 * (high - low);
  const range = [Math.min(0, Math.max(inner[0], low - reach)), Math.max(0, Math.min(inner[1], high + reach)) || 0.01];
  const label = value => {
    const text = written(value, score.decimals);
    return Number(value) > range[1] ? `${text} ▸` : Number(value) < range[0] ? `◂ ${text}` : text;
  };
  const traces = systems.map((system, place) => {
    const values = valuesOf(score, system, choice.stem), drawn = order.filter(at => values[at] !== null);
    return {
      type: "bar", orientation: "h", name: literal(system), marker: { color: colour(system) },
      y: drawn.map(at => order.indexOf(at)), x: drawn.map(at => clamp(Number(values[at]), range)),
      offset: (gap / 2 + above + bar * place) / slot - 0.5, width: (bar - 2) / slot,
      text: drawn.map(at => label(values[at])), textposition: "outside", cliponaxis: false,
      textfont: { size: 11 }, constraintext: "none",
      customdata: drawn.map(at => [data.tracks[at], literal(data.tracks[at])]),
      hovertemplate: `%{customdata[1]}<br>%{text} ${score.unit}`,
    };
  });
  const names = order.map(at => literal(shortened(data.tracks[at], narrow.matches ? 48 : 42)));
  const pad = 0.09 * (range[1] - range[0]) * (narrow.matches ? 2 : 1);
  plot(div, `Bars of ${axisTitle(score)} of ${choice.stem} for ${order.length} tracks.`, traces, {
    height: order.length * slot + 60, hovermode: "closest", margin: { l: 8, r: 8, t: 50, b: 10 },
    xaxis: axis({
      side: "top", title: { text: literal(`${axisTitle(score)} of ${choice.stem}`) },
      range: [range[0] - (range[0] < 0 ? pad : 0), range[1] + (range[1] > 0 ? pad : 0)],
    }),
    yaxis: axis({
      range: [order.length - 0.5, -0.5], showgrid: false, zeroline: false, showticklabels: !narrow.matches,
      tickvals: order.map((_, at) => at), ticktext: names,
    }),
    annotations: !narrow.matches ? [] : names.map((text, at) => ({
      text, x: 0, xref: "paper", xanchor: "left", y: at - 0.5 + gap / 2 / slot, yanchor: "top", showarrow: false,
      borderpad: 0, bgcolor: css("--paper"), font: { size: 12 },
    })),
  });
  const cut = traces.some(trace => trace.text.some(text => /[◂▸]/.test(text)));
  byId("bars-note").textContent = cut
    ? "◂ or ▸ marks a bar that is cut at the end of the axis; its number is the score." : "";
  if (!div.clickable) div.on("plotly_click", event => { showTrack(event.points[0].customdata[0]); });
  div.clickable = true;
}

// From the lowest to the highest, without the far ends of the few that are far from all others.
function innerRange(sorted) {
  if (!sorted.length) return [0, 1];
  const low = quantile(sorted, 0.03), high = quantile(sorted, 0.97), reach = high - low;
  return [Math.max(sorted[0], low - 0.4 * reach), Math.min(sorted.at(-1), high + 0.4 * reach)];
}

// 3. Scores over time.

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0)), view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, at) => {
    const code = view.getInt16(2 * at, true);
    return code === -32768 ? null : Math.abs(code) === 32767 ? code * Infinity : code / 100;
  });
}

// Plotly writes times as min:s only on an axis of dates; it would take the first ten seconds of 1970 for years.
const moment = seconds => 86400e3 + 1000 * seconds;

function drawTime(choice) {
  const lines = shown(choice).map(system => ({ system, track: data.frames[system][choice.track] }))
    .filter(line => line.track?.stems[choice.stem]?.[choice.metric])
    .map(line => ({ ...line, values: unpacked(line.track.stems[choice.stem][choice.metric]) }));
  const sorted = ascending(lines.flatMap(line => line.values));
  const inner = innerRange(sorted), margin = 0.06 * (inner[1] - inner[0]) || 1;
  const range = [inner[0] - margin, inner[1] + margin];
  const length = Math.max(0, ...lines.map(line => line.values.length * line.track.hop));
  const clock = length >= 3600 ? "%-H:%M:%S" : "%-M:%S";
  const remark = {
    text: "No window has this score", font: { size: 15 }, showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper",
  };
  const traces = lines.map(({ system, track, values }) => ({
    type: "scatter", mode: values.length > 600 ? "lines" : "lines+markers", name: literal(system), connectgaps: false,
    line: { color: colour(system), width: 1.6 }, marker: { size: narrow.matches ? 3 : 5, symbol: symbol(system) },
    x: values.map((_, at) => moment(at * track.hop + track.window / 2)),
    y: values.map(value => value === null || finite(value) ? value : range[value > 0 ? 1 : 0]),
    customdata: values.map(value => written(value, 2)), hovertemplate: "%{customdata} dB",
  }));
  const what = `${choice.metric} (dB) of ${choice.stem} over time, ${choice.track}`;
  plot(byId("time"), `Lines of ${what}, for ${lines.map(line => line.system).join(", ") || "no system"}.`, traces, {
    height: 380, hovermode: "x unified", dragmode: canHover ? "zoom" : false,
    title: {
      text: literal(shortened(choice.track, narrow.matches ? 44 : 100)), font: { size: 14 }, x: 0, xref: "paper",
    },
    margin: { l: 50, r: 12, t: 34, b: 44 },
    xaxis: axis({
      type: "date", tickformat: clock, hoverformat: clock, nticks: narrow.matches ? 6 : 14,
      range: [moment(0), moment(length || 60)],
      title: { text: length >= 3600 ? "Time (h:min:s)" : "Time (min:s)" }, fixedrange: false, zeroline: false,
    }),
    yaxis: axis({
      range, title: { text: `${choice.metric} of ${literal(choice.stem)} (dB)` }, fixedrange: false,
      showticklabels: sorted.length > 0, nticks: 8,
    }),
    annotations: sorted.length ? [] : [remark],
  });
  const outside = sorted.filter(value => value < range[0] || value > range[1]).length;
  const windows = [...new Set(lines.map(line => `${line.track.window} s`))].join(" or ");
  byId("time-note").textContent = [
    sorted.length ? `One point a window of ${windows}, at its middle; a gap is a window without a score.` : "",
    outside ? ` ${outside} of ${sorted.length} points lie beyond the axis` : "",
    outside ? (canHover ? ": a double click shows all." : ".") : "",
  ].join("");
  const at = data.tracks.indexOf(choice.track);
  byId("time-table").replaceChildren(table(`Scores of ${choice.stem}; of windows, their median`,
    ["Score", ...shown(choice)],
    data.scores.map(score => [axisTitle(score),
      ...shown(choice).map(system => written(valuesOf(score, system, choice.stem)[at], score.decimals))]),
    index => index > 0));
}

// 4. The worst and the best.

function drawEnds(choice) {
  const score = scoreNamed.get(choice.score);
  byId("ends").replaceChildren(...data.stems.map(stem => {
    const values = valuesOf(score, choice.system, stem);
    const best = ranked(score, choice.system, stem), worst = [...best].reverse();
    const link = at => element("a", {
      href: address({ track: data.tracks[at], stem }), className: "to-track",
    }, data.tracks[at]);
    const rows = best.slice(0, 5).map((_, place) => [String(place + 1),
      ...[worst[place], best[place]].flatMap(at => [link(at), written(values[at], score.decimals)])]);
    const unit = score.unit || score.name;
    return rows.length
      ? table(stem, ["", "Worst", unit, "Best", unit], rows, index => index > 1 && index % 2 === 0)
      : element("p", { className: "caption" }, `${stem}: ${choice.system} has no ${score.name} for any track.`);
  }));
}

// All together.

const figures = [
  { draw: drawBoxes, needs: ["boxes", "hide"] },
  { draw: drawBars, needs: ["stem", "score", "system", "hide"] },
  { draw: drawTime, needs: ["track", "stem", "metric", "hide"] },
  { draw: drawEnds, needs: ["system", "score"] },
];

function draw() {
  const choice = chosen();
  for (const select of document.querySelectorAll("select")) select.value = choice[select.dataset.key];
  for (const box of byId("systems").querySelectorAll("input")) box.checked = !choice.hide.includes(box.value);
  for (const link of document.querySelectorAll("a.to-track")) link.hash = address(Object.fromEntries(
    ["track", "stem"].map(key => [key, new URLSearchParams(link.hash.slice(1)).get(key)])));
  for (const figure of figures) {
    const needed = JSON.stringify(figure.needs.map(key => choice[key]));
    if (figure.drawn !== needed) figure.draw(choice);
    figure.drawn = needed;
  }
}

function drawAll() {
  for (const figure of figures) figure.drawn = undefined;
  for (const swatch of document.querySelectorAll(".swatch")) swatch.style.background = colour(swatch.title);
  draw();
}

const showTime = () => byId("time-section").scrollIntoView();
function showTrack(track) {
  choose({ track });
  showTime();
}

function start() {
  for (const select of document.querySelectorAll("select")) {
    select.append(...options[select.dataset.key].map(value => element("option", { value }, value)));
    select.addEventListener("change", () => choose({ [select.dataset.key]: select.value }));
  }
  for (const system of data.systems) {
    const box = element("input", { type: "checkbox", value: system });
    box.addEventListener("change", () => choose({
      hide: box.checked ? chosen().hide.filter(one => one !== system) : [...chosen().hide, system],
    }));
    byId("systems").append(element("label", {}, box, element("span", { className: "swatch", title: system }), system));
  }
  document.body.classList.toggle("no-frames", !framewise.length);
  byId("ends").addEventListener("click", event => { if (event.target.closest("a")) showTime(); });
  addEventListener("hashchange", draw);
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  drawAll();
  if (new URLSearchParams(location.hash.slice(1)).has("track")) showTime();
}

if (data.scores.length) start();
