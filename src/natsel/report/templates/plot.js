"use strict";
// Pictures as SVG, from figures in the words of plotly: as much of them as the pages use.
const Plot = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const DASHES = { dot: "2 3", dash: "6 4", longdash: "10 5", dashdot: "6 3 2 3" };

  const make = (parent, name, attributes = {}, text) => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== undefined) node.setAttribute(key, value);
    }
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };

  // Names are escaped for plotly, which reads them as a small HTML; here they are text.
  const plain = (text) =>
    new DOMParser().parseFromString(String(text).replaceAll("<br>", "\n"), "text/html").body.textContent;

  const shown = (value, format) => {
    if (typeof value !== "number") return plain(value);
    const [, sign, digits, kind] = /^(\+?)(?:\.(\d+))?([%f]?)$/.exec(format ?? "") ?? [];
    if (kind === "%") return (100 * value).toFixed(digits ?? 0) + "%";
    if (kind === "f") return (sign && value >= 0 ? "+" : "") + value.toFixed(digits);
    const rounded = Number(value.toPrecision(6));
    return rounded.toLocaleString("en", { maximumSignificantDigits: 6 });
  };

  const filled = (template, point) =>
    plain(
      template.replaceAll("<extra></extra>", "").replace(/%\{(\w+)(?::([^}]*))?\}/g, (_, key, format) =>
        typeof point[key] === "number" ? shown(point[key], format) : (point[key] ?? ""),
      ),
    );

  // Axes.

  const steps = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
      ticks.push(Number((i * step).toPrecision(12)));
    }
    return ticks;
  };

  const isCategory = (axis, values) => axis.type === "category" || values.some((v) => typeof v === "string");

  const scaleOf = (axis, values, edges) => {
    if (isCategory(axis, values)) {
      const names = [...new Set(values)];
      return { names, first: -0.5, last: names.length - 0.5, at: (v) => names.indexOf(v) };
    }
    const log = axis.type === "log";
    const at = log ? (v) => Math.log10(v) : (v) => v;
    const known = values.filter((v) => typeof v === "number" && (!log || v > 0)).map(at);
    let [first, last] = axis.range ?? [Math.min(...known), Math.max(...known)];
    if (!Number.isFinite(first) || !Number.isFinite(last)) [first, last] = [0, 1];
    if (axis.range === undefined) {
      const room = first === last ? Math.abs(first) * 0.1 || 1 : (last - first) * 0.04;
      [first, last] = [first - (edges?.low ?? room), last + (edges?.high ?? room)];
      if (axis.rangemode === "tozero") [first, last] = [Math.min(0, first + room), last];
    }
    return { log, first, last, at };
  };

  const ticksOf = (axis, scale, count) => {
    if (scale.names) return scale.names.map((name, i) => [i, plain(name)]);
    if (axis.tickvals) {
      return axis.tickvals.map((v, i) => [scale.at(v), plain(axis.ticktext?.[i] ?? shown(v, axis.tickformat))]);
    }
    if (scale.log) {
      const powers = steps(Math.ceil(scale.first), Math.floor(scale.last) + 0.01, 6).filter(Number.isInteger);
      return powers.map((p) => [p, shown(10 ** p)]);
    }
    return steps(scale.first, scale.last, axis.nticks ?? count).map((v) => [v, shown(v, axis.tickformat)]);
  };

  // Colours along a scale.

  const rgba = (text) => {
    if (text.startsWith("#")) return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)).concat(1);
    return text.match(/[\d.]+/g).map(Number);
  };
  const colourAt = (scale, share) => {
    const after = scale.findIndex(([place]) => place >= share);
    if (after <= 0) return scale[after === 0 ? 0 : scale.length - 1][1];
    const [[low, from], [high, to]] = [scale[after - 1], scale[after]];
    const part = high === low ? 1 : (share - low) / (high - low);
    const [a, b] = [rgba(from), rgba(to)];
    const mixed = a.map((v, i) => v + part * (b[i] - v));
    return `rgba(${mixed.slice(0, 3).map(Math.round)},${mixed[3]})`;
  };

  // Traces. A trace that says each x once for many lines repeats them after each gap.

  const unfolded = (trace) => {
    if (trace.meta?.repeat !== "x") return trace;
    let place = 0;
    let line = 0;
    const [x, customdata] = [[], []];
    for (const y of trace.y) {
      const isGap = place === trace.x.length;
      x.push(isGap ? null : trace.x[place]);
      customdata.push(isGap ? null : trace.customdata[line]);
      [place, line] = isGap ? [0, line + 1] : [place + 1, line];
    }
    return { ...trace, x, customdata };
  };

  const pathOf = (trace, px, py) => {
    const stairs = trace.line?.shape === "hv";
    let path = "";
    let pen = false;
    trace.x.forEach((value, i) => {
      const [x, y] = [px(value), py(trace.y[i])];
      if (value === null || trace.y[i] === null || !Number.isFinite(x) || !Number.isFinite(y)) {
        pen = false;
        return;
      }
      path += pen ? (stairs ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `L${x.toFixed(1)},${y.toFixed(1)}`) : `M${x.toFixed(1)},${y.toFixed(1)}`;
      pen = true;
    });
    return path;
  };

  const polygon = (number, radius, turn = 0, inner = 1) =>
    Array.from({ length: number }, (_, i) => {
      const angle = turn - Math.PI / 2 + (2 * Math.PI * i) / number;
      const r = i % 2 ? radius * inner : radius;
      return `${(r * Math.cos(angle)).toFixed(2)},${(r * Math.sin(angle)).toFixed(2)}`;
    }).join(" ");

  const markerAt = (parent, marker, x, y) => {
    const r = (marker.size ?? 6) / 2;
    const common = { fill: marker.color, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})` };
    const shapes = {
      square: polygon(4, r * 1.3, Math.PI / 4),
      diamond: polygon(4, r * 1.4),
      "triangle-up": polygon(3, r * 1.4),
      star: polygon(10, r * 1.1, 0, 0.45),
    };
    if (marker.symbol === "x") {
      const d = `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`;
      return make(parent, "path", { ...common, d, stroke: marker.color, "stroke-width": 2 });
    }
    const points = shapes[marker.symbol];
    return points ? make(parent, "polygon", { ...common, points }) : make(parent, "circle", { ...common, r });
  };

  const errorBars = (parent, trace, px, py) => {
    const { array, arrayminus = array, color, thickness, width } = trace.error_y;
    trace.x.forEach((value, i) => {
      if (trace.y[i] === null || value === null) return;
      const [x, top, bottom] = [px(value), py(trace.y[i] + array[i]), py(trace.y[i] - arrayminus[i])];
      const d = `M${x},${top}V${bottom}M${x - width},${top}h${2 * width}M${x - width},${bottom}h${2 * width}`;
      make(parent, "path", { d, stroke: color, "stroke-width": thickness, fill: "none" });
    });
  };

  const scatter = (parent, trace, px, py, points) => {
    const mode = trace.mode ?? "lines";
    const path = pathOf(trace, px, py);
    if (trace.fill === "toself") make(parent, "path", { d: `${path}Z`, fill: trace.fillcolor });
    if (trace.fill === "tozeroy" && path) {
      const ends = [trace.x[0], trace.x[trace.x.length - 1]].map(px);
      make(parent, "path", { d: `${path}V${py(0)}H${ends[0]}Z`, fill: trace.fillcolor });
    }
    if (mode.includes("lines") && (trace.line?.width ?? 2) > 0) {
      make(parent, "path", {
        d: path,
        fill: "none",
        stroke: trace.line?.color,
        "stroke-width": trace.line?.width ?? 2,
        "stroke-dasharray": DASHES[trace.line?.dash],
        "stroke-linejoin": "round",
      });
    }
    if (trace.error_y) errorBars(parent, trace, px, py);
    trace.x.forEach((x, i) => {
      const y = trace.y[i];
      if (x === null || y === null) return;
      if (mode.includes("markers") && typeof trace.marker?.color === "string") markerAt(parent, trace.marker, px(x), py(y));
      if (trace.hoverinfo !== "skip") {
        points.push({ trace, x, y, customdata: trace.customdata?.[i], left: px(x), top: py(y) });
      }
    });
  };

  const bars = (parent, trace, px, py, points, bottom) => {
    trace.x.forEach((x, i) => {
      const y = trace.y[i];
      if (y === null) return;
      const [left, right, top] = [px(x - trace.width / 2), px(x + trace.width / 2), py(y)];
      make(parent, "rect", { x: left, width: right - left, y: top, height: Math.max(0, bottom - top), fill: trace.marker.color });
      points.push({ trace, x, y, left: (left + right) / 2, top });
    });
  };

  const heatmap = (parent, trace, across, up, px, py, points) => {
    const half = (values, scale, i) => (scale.names || values.length < 2 ? 0.5 : Math.abs(values[1] - values[0]) / 2);
    const [dx, dy] = [half(trace.x, across), half(trace.y, up)];
    trace.y.forEach((y, row) => {
      trace.x.forEach((x, column) => {
        const z = trace.z[row][column];
        const [u, v] = [across.at(x), up.at(y)];
        const [left, right] = [px(u - dx, true), px(u + dx, true)].sort((a, b) => a - b);
        const [top, bottom] = [py(v - dy, true), py(v + dy, true)].sort((a, b) => a - b);
        const [gx, gy] = [(trace.xgap ?? 0) / 2, (trace.ygap ?? 0) / 2];
        if (z !== null) {
          const share = Math.min(1, Math.max(0, (z - trace.zmin) / (trace.zmax - trace.zmin)));
          const box = { x: left + gx, y: top + gy, width: Math.max(0, right - left - 2 * gx), height: Math.max(0, bottom - top - 2 * gy) };
          make(parent, "rect", { ...box, fill: colourAt(trace.colorscale, share) });
        }
        const [cx, cy] = [(left + right) / 2, (top + bottom) / 2];
        if (trace.text) {
          const font = { fill: trace.textfont.color, "font-size": trace.textfont.size };
          make(parent, "text", { x: cx, y: cy + 4, "text-anchor": "middle", ...font }, plain(trace.text[row][column]));
        }
        if (z === null) return;
        points.push({ trace, x: plain(x), y: plain(y), z, customdata: trace.customdata?.[row]?.[column], left: cx, top: cy });
      });
    });
  };

  const legend = (svg, entries, width, top, font) => {
    let [x, y] = [0, top];
    for (const trace of entries) {
      const text = make(svg, "text", { y: y + 4, "font-size": font, fill: "currentColor" }, plain(trace.name));
      const needed = 34 + text.getComputedTextLength() + 14;
      if (x > 0 && x + needed > width) [x, y] = [0, y + 18];
      text.setAttribute("x", x + 32);
      text.setAttribute("y", y + 4);
      if (trace.line) {
        const dash = { "stroke-dasharray": DASHES[trace.line.dash] };
        make(svg, "line", { x1: x, x2: x + 26, y1: y, y2: y, stroke: trace.line.color, "stroke-width": Math.max(1, trace.line.width), ...dash });
      }
      if (trace.marker) markerAt(svg, { ...trace.marker, size: Math.min(trace.marker.size, 11) }, x + 13, y);
      x += needed;
    }
    return y + 16;
  };

  const colourBar = (svg, marker, left, top, height) => {
    const { cmin, cmax, colorscale, colorbar } = marker;
    const rows = 40;
    for (let i = 0; i < rows; i++) {
      const fill = colourAt(colorscale, 1 - (i + 0.5) / rows);
      make(svg, "rect", { x: left, y: top + (i * height) / rows, width: colorbar.thickness, height: height / rows + 0.5, fill });
    }
    for (const value of steps(cmin, cmax, colorbar.nticks)) {
      const y = top + height * (1 - (value - cmin) / (cmax - cmin));
      make(svg, "text", { x: left + colorbar.thickness + 4, y: y + 3.5, "font-size": 10, fill: "currentColor" }, shown(value));
    }
    const x = left + colorbar.thickness + 46;
    const turned = { transform: `rotate(90 ${x} ${top + height / 2})`, "text-anchor": "middle" };
    make(svg, "text", { x, y: top + height / 2, ...turned, "font-size": 11, fill: "currentColor" }, plain(colorbar.title.text));
  };

  // What is nearest to the pointer is told beside it.
  const hover = (holder, svg, points) => {
    const told = points.filter((p) => p.trace.hovertemplate || p.trace.name);
    const box = holder.appendChild(document.createElement("div"));
    box.className = "told";
    box.hidden = true;
    svg.addEventListener("pointermove", (event) => {
      const [x, y] = [event.offsetX, event.offsetY];
      let [best, distance] = [null, 30 * 30];
      for (const point of told) {
        const found = (point.left - x) ** 2 + (point.top - y) ** 2;
        if (found < distance) [best, distance] = [point, found];
      }
      box.hidden = best === null;
      if (best === null) return;
      const name = plain(best.trace.name ?? "");
      box.textContent = best.trace.hovertemplate ? filled(best.trace.hovertemplate, best) : `${name}\n${shown(best.x)}: ${shown(best.y)}`;
      box.style.left = `${Math.max(0, Math.min(best.left + 12, svg.clientWidth - box.offsetWidth))}px`;
      box.style.top = `${Math.max(0, best.top - box.offsetHeight - 10)}px`;
    });
    svg.addEventListener("pointerleave", () => (box.hidden = true));
  };

  const react = (holder, data, layout) => {
    holder.replaceChildren();
    const traces = data.map(unfolded);
    const width = holder.clientWidth || 600;
    const svg = make(holder, "svg", { class: "main-svg", width, height: layout.height });
    svg.style.color = layout.font.color;
    const drawn = traces.filter((t) => t.x?.some((v) => v !== null));
    const [ax, ay] = [layout.xaxis, layout.yaxis];
    const flat = (key) => drawn.flatMap((t) => t[key]);
    const grid = drawn.find((t) => t.type === "heatmap");
    const half = (values) => (values.length > 1 ? Math.abs(values[1] - values[0]) / 2 : 0.5);
    const edges = (values) => (grid ? { low: half(values), high: half(values) } : undefined);
    const across = scaleOf(ax, [...flat("x"), ...(layout.shapes ?? []).flatMap((s) => [s.x0, s.x1])], edges(grid?.x));
    const up = scaleOf(ay, flat("y"), edges(grid?.y));

    // Room for the words around: names of ticks on the left, below, and the legend.
    const bar = traces.find((t) => t.marker?.showscale);
    const yTicks = ticksOf(ay, up, 6);
    const measured = yTicks.map(([, text]) => {
      const node = make(svg, "text", { "font-size": ay.tickfont?.size ?? 11 }, text);
      const length = node.getComputedTextLength();
      node.remove();
      return length;
    });
    const left = Math.max(24, ...measured) + 12 + (ay.title?.text ? 20 : 0);
    const right = width - (bar ? 70 : layout.margin.r);
    const top = layout.margin.t;
    const entries = layout.legend ? traces.filter((t) => t.name && t.showlegend !== false) : [];
    const xTicks = ticksOf(ax, across, Math.max(2, Math.min(8, (right - left) / 70)));
    const below = (ax.tickangle ? 70 : 20) + (ax.title?.text ? 22 : 0);
    const legendHeight = entries.length ? legend(svg, entries, width, 0, layout.legend.font?.size ?? 12) : 0;
    for (const node of [...svg.children]) node.remove();
    const bottom = Math.max(top + 60, layout.height - below - legendHeight - 6);

    const px = (v, placed) => left + (((placed ? v : across.at(v)) - across.first) / (across.last - across.first)) * (right - left);
    const turned = ay.autorange === "reversed";
    const py = (v, placed) => {
      const share = ((placed ? v : up.at(v)) - up.first) / (up.last - up.first);
      return turned ? top + share * (bottom - top) : bottom - share * (bottom - top);
    };
    const text = { fill: "currentColor" };
    for (const [place, word] of xTicks) {
      const x = px(place, true);
      if (x < left - 1 || x > right + 1) continue;
      if (ax.showgrid !== false) make(svg, "line", { x1: x, x2: x, y1: top, y2: bottom, stroke: ax.gridcolor });
      const angle = ax.tickangle ? { transform: `rotate(${ax.tickangle} ${x} ${bottom + 14})`, "text-anchor": "end" } : { "text-anchor": "middle" };
      make(svg, "text", { x, y: bottom + 16, ...text, ...angle, "font-size": ax.tickfont?.size ?? 11 }, word);
    }
    for (const [place, word] of yTicks) {
      const y = py(place, true);
      if (y < top - 1 || y > bottom + 1) continue;
      if (ay.showgrid !== false) make(svg, "line", { x1: left, x2: right, y1: y, y2: y, stroke: ay.gridcolor });
      make(svg, "text", { x: left - 8, y: y + 4, ...text, "text-anchor": "end", "font-size": ay.tickfont?.size ?? 11 }, word);
    }
    if (ax.title?.text) make(svg, "text", { x: (left + right) / 2, y: bottom + below - 4, ...text, "text-anchor": "middle" }, plain(ax.title.text));
    if (ay.title?.text) {
      const y = (top + bottom) / 2;
      make(svg, "text", { x: 12, y, transform: `rotate(-90 12 ${y})`, ...text, "text-anchor": "middle" }, plain(ay.title.text));
    }

    // A line may leave the picture: it is cut at the edge.
    const id = `clip-${(react.count = (react.count ?? 0) + 1)}`;
    make(make(svg, "clipPath", { id }), "rect", { x: left - 8, y: top - 8, width: right - left + 16, height: bottom - top + 8 });
    const inside = make(svg, "g", { "clip-path": `url(#${id})` });
    for (const shape of layout.shapes ?? []) {
      const line = { x1: px(shape.x0), x2: px(shape.x1), y1: bottom, y2: top, stroke: shape.line.color, "stroke-dasharray": DASHES[shape.line.dash] };
      make(inside, "line", line);
    }
    const points = [];
    for (const trace of drawn) {
      if (trace.type === "bar") bars(inside, trace, px, py, points, bottom);
      else if (trace.type === "heatmap") heatmap(inside, trace, across, up, px, py, points);
      else scatter(inside, trace, px, py, points);
    }
    if (bar) colourBar(svg, bar.marker, right + 14, top + 8, (bottom - top) * bar.marker.colorbar.len);
    if (entries.length) legend(make(svg, "g", { transform: `translate(0,${bottom + below + 10})` }), entries, width, 0, layout.legend.font?.size ?? 12);
    hover(holder, svg, points.filter((p) => p.top >= top - 8 && p.top <= bottom + 8));
  };

  return { react };
})();
