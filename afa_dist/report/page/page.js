"use strict";
(() => {
  const root = document.documentElement;
  const { charts, columns } = JSON.parse(document.getElementById("data").textContent);
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const TILE = 96;
  // Colours of classes: far apart in hue, and of two lightnesses in turn, since hue alone is not seen by all.
  const classColour = (label) => `hsl(${(label * 137.5) % 360} 70% ${label % 2 ? 40 : 58}%)`;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const plain = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});

  function coloured(trace) {
    const meta = plain(trace.meta);
    const own = { ...trace };
    if ("colour" in meta) {
      const colour = css(`--c${meta.colour % 8}`);
      own.line = { ...trace.line, color: colour };
      own.marker = { ...trace.marker, color: colour };
      for (const bars of ["error_x", "error_y"]) if (trace[bars]) own[bars] = { ...trace[bars], color: colour };
    }
    if (meta.classes) {
      const colours = meta.classes.map(classColour);
      own.marker = { ...trace.marker, color: colours, line: { ...plain(trace.marker.line), color: colours } };
    }
    return own;
  }

  function layoutOf(layout) {
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
    const own = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text"), size: 13 },
      margin: { l: 50, r: 20, t: 20, b: 45 }, legend: { orientation: "h", y: -0.22 }, height: 380, ...layout,
      hoverlabel: { bgcolor: css("--raised"), font: { color: css("--text") } },
    };
    for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) own[name] = { ...axis, ...layout[name] };
    return own;
  }

  function draw(index) {
    const target = document.getElementById(`chart-${index}`);
    const config = { responsive: true, displaylogo: false, scrollZoom: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
    return Plotly.react(target, charts[index].data.map(coloured), layoutOf(charts[index].layout), config);
  }

  function drawAll() {
    return Promise.all(charts.map((_, index) => draw(index)));
  }

  function setTheme(dark) {
    root.dataset.theme = dark ? "dark" : "light";
  }

  // -- tables

  function sortBy(table, column, heading) {
    const ascending = heading.getAttribute("aria-sort") === "descending";
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === ""); // what is not there goes last either way
      const numbers = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
      const order = numbers ? Number(a) - Number(b) : a.localeCompare(b);
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => sortBy(table, column, heading));
    });
  }

  // -- pictures at the pointer

  const pointer = document.getElementById("pointer");

  function showPicture(chart, point, event) {
    const [place, sheet, words] = point.customdata;
    const picture = pointer.firstElementChild;
    if (chart.sheets.length) {
      const [height, width] = chart.tile;
      const scale = TILE / Math.max(height, width);
      picture.style.width = `${width * scale}px`;
      picture.style.height = `${height * scale}px`;
      picture.style.backgroundImage = `url(${chart.sheets[sheet]})`;
      picture.style.backgroundSize = `${columns * width * scale}px auto`;
      picture.style.backgroundPosition = `${-(place % columns) * width * scale}px ${-Math.floor(place / columns) * height * scale}px`;
    }
    picture.hidden = !chart.sheets.length;
    pointer.lastElementChild.textContent = `${["clean", "attacked"][sheet]}: ${words}`;
    pointer.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - pointer.offsetWidth - 8);
    const top = Math.min(event.clientY + 14, innerHeight - pointer.offsetHeight - 8);
    pointer.style.left = `${Math.max(8, left)}px`;
    pointer.style.top = `${Math.max(8, top)}px`;
  }

  function watch(index) {
    const chart = charts[index];
    if (!chart.data.some((trace) => trace.customdata)) return;
    const target = document.getElementById(`chart-${index}`);
    target.on("plotly_hover", ({ points, event }) => showPicture(chart, points[0], event));
    target.on("plotly_click", ({ points, event }) => showPicture(chart, points[0], event)); // a touch points at nothing
    target.on("plotly_unhover", () => { pointer.hidden = true; });
  }

  for (const button of document.querySelectorAll(".switch button")) {
    const others = button.parentElement.querySelectorAll("button");
    button.setAttribute("aria-pressed", String(button === others[0]));
    button.addEventListener("click", () => {
      const index = Number(button.dataset.chart);
      for (const trace of charts[index].data) [trace.x, trace.y] = trace.meta.maps[button.dataset.map];
      others.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      draw(index);
    });
  }

  document.getElementById("theme").addEventListener("click", () => {
    setTheme(root.dataset.theme !== "dark");
    drawAll();
  });
  prefersDark.addEventListener("change", (event) => { setTheme(event.matches); drawAll(); });
  setTheme(prefersDark.matches);
  drawAll().then(() => { charts.forEach((_, index) => watch(index)); root.dataset.ready = "true"; });
})();
