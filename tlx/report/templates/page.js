"use strict";
(() => {
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();

  const NAMES = ["paper", "card", "ink", "quiet", "line", "fill", "accent", "warm", "good", "ramp", "category"];
  // What a page's own script may set: which rows of the drawings are shown. It then draws again.
  const page = (window.tlx = { keep: () => true, redraw: () => (drawing = drawing.then(drawAll)) });
  let drawing = Promise.resolve();

  // Light ones, whatever the screen is, for print: the values of the first rule of the style sheet.
  function colours(light) {
    const root = light
      ? [...document.getElementById("style").sheet.cssRules].find((rule) => rule.selectorText === ":root").style
      : getComputedStyle(document.documentElement);
    return Object.fromEntries(NAMES.map((name) => [name, root.getPropertyValue(`--${name}`).trim()]));
  }

  function theme(c, background) {
    const list = (text) => text.split(",").map((item) => item.trim());
    const font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif";
    return {
      background, font, autosize: { type: "fit", contains: "padding" }, padding: 2,
      view: { stroke: null },
      mark: { color: c.accent }, line: { color: c.accent }, circle: { color: c.accent }, rule: { color: c.quiet }, text: { color: c.ink },
      range: { category: list(c.category), ramp: list(c.ramp), heatmap: list(c.ramp), ordinal: list(c.ramp) },
      axis: { gridColor: c.line, domainColor: c.line, tickColor: c.line, labelColor: c.quiet, titleColor: c.quiet, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal", gridDash: [2, 3], titlePadding: 8 },
      axisX: { grid: false }, axisBand: { grid: false },
      legend: { labelColor: c.ink, titleColor: c.quiet, labelFontSize: 11, symbolType: "stroke", symbolBaseFillColor: c.quiet, symbolBaseStrokeColor: c.quiet },
    };
  }

  // The drawing of a figure with the rows that are kept; axes of names lose those of which no row is left.
  function specification(figure) {
    const spec = JSON.parse(figure.querySelector("script[data-figure]").textContent);
    const count = spec.datasets.table.length;
    for (const [name, rows] of Object.entries(spec.datasets)) spec.datasets[name] = rows.filter(page.keep);
    const rows = spec.datasets.table;
    let share = 1;
    const narrow = (part) => {
      for (const [channel, { field, scale }] of Object.entries(part.encoding ?? {})) {
        if (!"xy".includes(channel) || typeof scale?.domain?.[0] !== "string") continue;
        const left = scale.domain.filter((name) => rows.some((row) => row[field] === name));
        if (channel === "y") share = left.length / scale.domain.length;
        scale.domain = left;
      }
      (part.layer ?? []).forEach(narrow);
    };
    if (rows.length < count) narrow(spec);
    // The axis below keeps its height: `FOOT` in tlx/report/study/axes.py.
    spec.height = (spec.height - 48) * share + 48;
    return spec;
  }

  async function draw(figure, node, light) {
    const spec = specification(figure);
    const c = colours(light);
    if (spec.params) {
      for (const param of spec.params) {
        if (param.name === "paper") param.value = light ? "#ffffff" : c.card;
        else if (param.name in c) param.value = c[param.name];
      }
    }
    // `ast`: expressions are interpreted, for the page's policy forbids to make code of strings.
    const options = { ast: true, renderer: "svg", actions: false, config: theme(c, light ? "#ffffff" : null), tooltip: { theme: scheme.matches ? "dark" : "light" } };
    const view = (await vegaEmbed(node, spec, options)).view;
    return { spec, view };
  }

  async function drawAll() {
    document.documentElement.dataset.drawn = "";
    for (const figure of document.querySelectorAll("figure.drawing")) {
      const held = views.get(figure);
      if (held) held.view.finalize();
      figure.hidden = !specification(figure).datasets.table.length;
      if (figure.hidden) views.delete(figure);
      else views.set(figure, await draw(figure, figure.querySelector(".plot"), false));
    }
    document.documentElement.dataset.drawn = "yes";
  }

  function save(content, type, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // All that is drawn: the rows of every table of a figure, and where there are several of which each row is.
  function csv(datasets) {
    const tables = Object.entries(datasets).filter(([, rows]) => rows.length);
    const every = tables.flatMap(([, rows]) => rows);
    // An anchor is a place on this page alone.
    const names = [...new Set(every.flatMap((row) => Object.keys(row)))].filter((name) => name !== "anchor");
    let part = "part";
    while (names.includes(part)) part += "_";
    const several = Object.keys(datasets).length > 1;
    const rows = several ? tables.flatMap(([name, held]) => held.map((row) => ({ ...row, [part]: name }))) : every;
    if (several) names.unshift(part);
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(cell).join(",") + "\r\n").join("");
  }

  async function svg(figure) {
    const place = document.createElement("div");
    place.style.cssText = `position: absolute; left: -9999px; width: ${Math.max(480, figure.querySelector(".plot").clientWidth)}px`;
    document.body.append(place);
    const { view } = await draw(figure, place, true);
    const text = await view.toSVG();
    view.finalize();
    place.remove();
    return text;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const figure = button.closest("figure.drawing");
    if (figure && button.dataset.save) {
      const script = figure.querySelector("script[data-figure]");
      const name = script.dataset.figure;
      if (button.dataset.save === "csv") save(csv(specification(figure).datasets), "text/csv", `${name}.csv`);
      else save(await svg(figure), "image/svg+xml", `${name}.svg`);
    } else if (button.closest("table.sortable th")) sort(button.closest("th"));
  });

  function sort(heading) {
    const down = heading.getAttribute("aria-sort") === "ascending" || (heading.getAttribute("aria-sort") === "none" && heading.classList.contains("number"));
    const column = [...heading.parentNode.children].indexOf(heading);
    const key = (row) => {
      const cell = row.children[column];
      return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
    };
    const body = heading.closest("table").tBodies[0];
    const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    const rows = [...body.rows].sort((a, b) => (down ? order(key(b), key(a)) : order(key(a), key(b))));
    body.append(...rows);
    for (const other of heading.parentNode.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  scheme.addEventListener("change", page.redraw);
  page.redraw();
})();
