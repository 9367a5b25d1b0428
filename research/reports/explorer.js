"use strict";
// The attention explorer: a token or patch is chosen by pointer or arrow keys, and what the head looks at is shown.
(() => {
  const looks = JSON.parse(document.getElementById("attention-data").textContent);
  const root = document.getElementById("explorer");
  const chosen = { look: 0, layer: 0, head: -1, query: 0 }; // head -1: the mean of all heads
  let paintQuery = () => {};

  const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  for (const look of looks) {
    for (const layer of look.layers) {
      layer.bytes = decode(layer.weights);
      layer.name = layer.path.replace(/layer_(\d+)/, (_, number) => `layer ${+number + 1}`).replace(/[_/]+/g, " ");
    }
  }

  function make(tag, properties = {}, ...children) {
    const { style = {}, aria = {}, ...rest } = properties;
    const element = Object.assign(document.createElement(tag), rest);
    for (const [name, value] of Object.entries(style)) element.style.setProperty(name, value);
    for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
    element.append(...children);
    return element;
  }

  /** What `query` gives each key, as numbers that sum to one; of one head, or the mean of all for head -1. */
  function row(layer, head, query) {
    const [heads, queries, keys] = layer.shape;
    const shown = head < 0 ? [...Array(heads).keys()] : [head];
    return Float32Array.from({ length: keys }, (_, key) => {
      const weight = (one) => (layer.bytes[(one * queries + query) * keys + key] / 255) ** 2;
      return shown.reduce((total, one) => total + weight(one), 0) / shown.length;
    });
  }

  /** Makes one tab stop of many buttons: arrows, Home and End move; `choose` takes the index that is focused. */
  function roving(buttons, columns, choose, hover) {
    const mark = (index) => buttons.forEach((button, i) => (button.tabIndex = i === index ? 0 : -1));
    mark(hover ? Math.min(chosen.query, buttons.length - 1) : 0);
    buttons.forEach((button, index) => {
      const pick = () => (mark(index), choose(index));
      button.addEventListener("focus", pick);
      button.addEventListener("click", pick);
      if (hover) button.addEventListener("pointerenter", pick);
      button.addEventListener("keydown", (event) => {
        const forward = getComputedStyle(button.parentElement).direction === "rtl" ? -1 : 1;
        const steps = { ArrowRight: forward, ArrowLeft: -forward, ArrowDown: columns, ArrowUp: -columns };
        const ends = { Home: 0, End: buttons.length - 1 };
        const target = event.key in steps ? index + steps[event.key] : ends[event.key];
        if (target === undefined) return;
        event.preventDefault();
        buttons[target]?.focus();
      });
    });
  }

  const press = (buttons, index) => buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === index));
  const signs = { "": "(no text)", " ": "␣", "\n": "↵", "\t": "⇥" };
  const named = (letter) => signs[letter] ?? `U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  /** A token as it can be seen: one without a visible letter is spelt out. */
  const visible = (token) => (/[^\p{Z}\p{C}\p{M}]/u.test(token) ? token : [...token].map(named).join(" ") || named(""));

  function heatColour() {
    const context = make("canvas").getContext("2d");
    context.fillStyle = getComputedStyle(root).getPropertyValue("--heat").trim();
    return context.fillStyle.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
  }

  /** Paints shares 0 to 1 (rows after one another) with one pixel each. */
  function paintMap(canvas, shares, columns) {
    [canvas.width, canvas.height] = [columns, shares.length / columns];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    const colour = heatColour();
    shares.forEach((share, i) => pixels.data.set([...colour, Math.round(255 * share)], 4 * i));
    context.putImageData(pixels, 0, 0);
  }

  const relative = (weights) => {
    const most = Math.max(...weights, 1e-9);
    return weights.map((weight) => weight / most);
  };

  function say(output, query, keys, weights) {
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
    const parts = order.map((key) => `${keys[key]} (${(100 * weights[key]).toFixed(0)} %)`);
    output.textContent = `${query} → ${parts.join(" · ")}`;
  }

  const fromTokens = (layer) =>
    /output|written/.test(layer.rows) ? "From (each named by the token it writes)" : "From";

  function textView(look, layer) {
    const [queries, keys] = [layer.rows, layer.columns].map((name) => look.tokens[name].map(visible));
    const buttons = queries.map((token) => make("button", { type: "button", className: "token", textContent: token }));
    const spans = keys.map((token) => make("span", { className: "token", textContent: token }));
    const said = make("p", { className: "said", dir: "auto", aria: { live: "polite" } });
    roving(buttons, 1, (index) => setQuery(index), true);
    paintQuery = () => {
      const weights = row(layer, chosen.head, chosen.query);
      press(buttons, chosen.query);
      spans.forEach((span, key) => {
        span.style.setProperty("--weight", weights[key].toFixed(3));
        span.title = `${(100 * weights[key]).toFixed(1)} %`;
      });
      say(said, queries[chosen.query], keys, weights);
    };
    return [
      make("div", {}, make("h3", { textContent: fromTokens(layer) }),
        make("div", { className: "tokens", dir: "auto", role: "group", ariaLabel: "tokens that look" }, ...buttons)),
      make("div", {}, make("h3", { textContent: "To" }),
        make("div", { className: "tokens", dir: "auto", ariaLabel: "tokens looked at" }, ...spans)),
      said,
    ];
  }

  /** Whether a layer looks at an image, from its patches or from tokens; the others of its model look at tokens. */
  const seesImage = (look, layer) => look.kind === "image" && layer.columns === "patches";
  /** Where an image's patches begin and end among the keys of a layer. */
  const patchesOf = (look, layer) => {
    const first = layer.rows === "patches" ? look.special : 0;
    return [first, first + look.grid[0] * look.grid[1]];
  };

  function imageView(look, layer) {
    const [rows, columns] = look.grid;
    const [first, end] = patchesOf(look, layer); // class token and the like stand before the patches, registers behind
    const patch = (index) => `row ${Math.floor(index / columns) + 1}, column ${(index % columns) + 1}`;
    const names = [...Array(layer.shape[2]).keys()].map((i) => {
      if (i < first) return ["class token", "distillation token"][i] ?? `special token ${i + 1}`;
      return i < end ? patch(i - first) : `register ${i - end + 1}`;
    });
    const asked = look.tokens?.[layer.rows]?.map(visible); // tokens that look at the image, if there are any
    const isPatch = (_, index) => !asked && first <= index && index < end;
    const buttons = (asked ?? names).map((name, index) => {
      const look = isPatch(name, index) ? {} : { className: "token", textContent: name };
      return make("button", { type: "button", ...look, aria: { label: name, pressed: false } });
    });
    const others = buttons.filter((button, index) => !isPatch(button, index));
    const aspect = `${columns} / ${rows}`;
    const image = make("img", { src: look.image, alt: look.title });
    const canvas = make("canvas", { role: "img", ariaLabel: "where the head looks" });
    const said = make("p", { className: "said", aria: { live: "polite" } });
    roving(buttons, asked ? 1 : columns, (index) => setQuery(index), true);
    paintQuery = () => {
      const weights = row(layer, chosen.head, chosen.query);
      press(buttons, chosen.query);
      spotlight(canvas, image, relative(weights.slice(first, end)), columns);
      say(said, (asked ?? names)[chosen.query], names, weights);
    };
    image.addEventListener("load", () => paintQuery());
    const tracks = { "grid-template-columns": `repeat(${columns}, 1fr)`, "grid-template-rows": `repeat(${rows}, 1fr)` };
    const group = { className: "patches", role: "group", ariaLabel: "patches", style: tracks };
    const patches = make("div", group, ...buttons.filter(isPatch));
    const photo = (...parts) => make("div", { className: "photo", style: { "--aspect": aspect } }, ...parts);
    return [
      ...(asked ? [make("h3", { textContent: fromTokens(layer) })] : []),
      ...(others.length ? [make("div", { className: "tokens" }, ...others)] : []),
      make("div", { className: "pair" },
        make("div", {}, make("h3", { textContent: asked ? "The image" : "From this patch" }), photo(image, patches)),
        make("div", {}, make("h3", { textContent: "To these" }), photo(canvas))),
      said,
    ];
  }

  /** The image in darkness, lit where the shares are high. */
  function spotlight(canvas, image, shares, columns) {
    if (!image.naturalWidth) return;
    const scale = Math.max(1, Math.round(384 / image.naturalWidth));
    [canvas.width, canvas.height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const [width, height] = [canvas.width / columns, (canvas.height * columns) / shares.length];
    shares.forEach((share, i) => {
      context.fillStyle = `rgba(8, 10, 14, ${0.9 * (1 - share)})`;
      context.fillRect((i % columns) * width, Math.floor(i / columns) * height, width, height);
    });
  }

  const pickers = make("div", { className: "pickers" });
  const view = make("div", { className: "look" });
  const overview = make("div", { className: "overview" });
  const stage = make("div", { className: "stage" }, view, overview);
  root.replaceChildren(pickers, stage);
  const picker = (label, names, change) => {
    const options = names.map((name, value) => make("option", { value, textContent: name }));
    const select = make("select", { ariaLabel: label }, ...options);
    select.addEventListener("change", () => change(+select.value));
    pickers.append(make("label", {}, label, select));
    return select;
  };
  let layers, heads, maps;

  function setQuery(index) {
    if (index === chosen.query) return;
    chosen.query = index;
    paintQuery();
    if (looks[chosen.look].kind === "image") paintMaps();
  }

  function setLook(index) {
    const look = looks[index];
    Object.assign(chosen, { look: index, query: Math.floor((look.layers[0].shape[1] + (look.grid?.[1] ?? 0)) / 2) });
    pickers.replaceChildren();
    picker("Example", looks.map((one) => one.title.slice(0, 60)), setLook).value = index;
    layers = picker("Layer", look.layers.map((layer) => layer.name), (value) => setLayer(value, chosen.head));
    const count = Math.max(...look.layers.map((layer) => layer.shape[0]));
    const names = ["mean of all heads", ...Array.from({ length: count }, (_, head) => `head ${head + 1}`)];
    heads = picker("Head", names, (value) => setLayer(chosen.layer, value - 1));
    buildOverview(look, count);
    setLayer(Math.min(chosen.layer, look.layers.length - 1), chosen.head);
  }

  function setLayer(index, head) {
    const look = looks[chosen.look];
    const layer = look.layers[index];
    chosen.layer = index;
    chosen.head = Math.min(head, layer.shape[0] - 1);
    chosen.query = Math.min(chosen.query, layer.shape[1] - 1); // cross-attention may ask from another sequence
    [layers.value, heads.value] = [index, chosen.head + 1];
    stage.className = `stage ${seesImage(look, layer) ? "image" : "text"}`;
    view.replaceChildren(...(seesImage(look, layer) ? imageView : textView)(look, layer));
    paintQuery();
    maps.forEach((map) => map.button.setAttribute("aria-pressed", map.index === index && map.head === chosen.head));
    if (look.kind === "image") paintMaps();
  }

  function buildOverview(look, count) {
    const grid = make("div", { className: "maps", role: "group", ariaLabel: "all layers and heads" });
    grid.style.gridTemplateColumns = `max-content repeat(${count}, max-content)`;
    maps = [];
    const words = look.layers.map((layer) => layer.name.split(" "));
    const told = (word) => word === "layer" || !words.every((others) => others.includes(word));
    look.layers.forEach((layer, index) => {
      grid.append(make("span", { textContent: words.length > 1 ? words[index].filter(told).join(" ") : layer.name }));
      for (let head = 0; head < count; head++) {
        if (head >= layer.shape[0]) { grid.append(make("span")); continue; }
        const canvas = make("canvas");
        const label = `${layer.name}, head ${head + 1}`;
        const button = make("button", { type: "button", title: label, aria: { label, pressed: false } }, canvas);
        maps.push({ button, canvas, layer, index, head });
        grid.append(button);
      }
    });
    roving(maps.map((map) => map.button), count, (i) => setLayer(maps[i].index, maps[i].head), false);
    const note = make("p", { className: "note", textContent: "All heads; choose one to look closer." });
    overview.replaceChildren(note, grid);
    paintMaps();
  }

  /** Of a text every head's whole matrix; of an image where every head looks from the chosen patch. */
  function paintMaps() {
    const look = looks[chosen.look];
    for (const { canvas, layer, head } of maps) {
      const [, queries, keys] = layer.shape;
      if (!seesImage(look, layer)) {
        const rows = Array.from({ length: queries }, (_, query) => [...row(layer, head, query)]).flat();
        paintMap(canvas, rows.map(Math.sqrt), keys);
      } else {
        const weights = row(layer, head, Math.min(chosen.query, queries - 1));
        paintMap(canvas, relative(weights.slice(...patchesOf(look, layer))), look.grid[1]);
      }
    }
  }

  setLook(0);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintMaps);
})();
