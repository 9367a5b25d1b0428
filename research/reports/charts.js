"use strict";
// Draws the charts of the page in the page's own colours, and again when the reader changes the scale or the scheme.
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const mix = (share) => {
    const parse = (name) => style(name).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
    const [low, high] = [parse("--series-0"), parse("--series-1")];
    return `rgb(${low.map((value, i) => Math.round(value + share * (high[i] - value))).join(",")})`;
  };
  const holders = [...document.querySelectorAll("[data-chart]")];
  const figures = holders.map((holder) => JSON.parse(holder.nextElementSibling.textContent));

  function draw() {
    const grid = { gridcolor: style("--line"), zerolinecolor: style("--line"), automargin: true };
    holders.forEach((holder, number) => {
      const figure = figures[number];
      const select = holder.closest("section").querySelector("[data-scale]");
      const scale = select ? ["steps", "examples", "seconds"].indexOf(select.value) : 0;
      const data = figure.data.map((trace) => {
        const { shade, colour: series } = trace.meta;
        const colour = shade === undefined ? style(`--series-${series % 6}`) : mix(shade);
        const x = scale ? trace.customdata.map((values) => values[scale - 1]) : trace.x;
        const fill = trace.fill && { fillcolor: colour + "30" };
        const line = { width: 1.2, ...trace.line, color: colour };
        return { ...trace, x, line, marker: { size: 6, ...trace.marker, color: colour }, ...fill };
      });
      const layout = {
        margin: { l: 44, r: 10, t: 8, b: 36 },
        paper_bgcolor: "transparent",
        plot_bgcolor: "transparent",
        font: { family: style("--sans"), size: 12, color: style("--muted") },
        hoverlabel: { bgcolor: style("--surface"), bordercolor: style("--line"), font: { color: style("--ink") } },
        hovermode: "x unified",
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        ...figure.layout,
        xaxis: { ...grid, ...figure.layout.xaxis },
        yaxis: { ...grid, ...figure.layout.yaxis },
      };
      if (select) layout.xaxis.title = { text: select.value, standoff: 4 };
      Plotly.react(holder, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    });
  }
  draw();
  document.querySelectorAll("[data-scale]").forEach((select) => select.addEventListener("change", draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
