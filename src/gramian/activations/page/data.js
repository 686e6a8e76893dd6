// The data: columns of numbers, and a table of the samples that points refer to.
const data = JSON.parse(document.getElementById("data").textContent);
const types = { float32: Float32Array, int16: Int16Array, int32: Int32Array, uint8: Uint8Array, uint16: Uint16Array };
const columns = {};
for (const [name, [type, text]] of Object.entries(data.columns)) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < bytes.length; place += 1) bytes[place] = letters.charCodeAt(place);
  columns[name] = new types[type](bytes.buffer);
}
const { m, n, bins, samples: sampleCount, neighbours, partners } = data.sizes;
const table = data.table;
const byId = (id) => document.getElementById(id);

// Text enters the page as text only, never as HTML.
const element = (tag, options = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "tint") made.style.setProperty("--tint", value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

const hueOf = (x, y) => (Math.atan2(y, x) * 180 / Math.PI + 360) % 360;
// Equally light at every angle, on dark and on light pages.
const tintOf = (hue) => `oklch(0.68 0.17 ${hue.toFixed(0)})`;

// The points of a feature; those that are listed come first, in the order of their angles.
const pointsOf = (feature) => {
  const points = [];
  const scale = columns.limit[feature] / 32767;
  const first = columns.starts[feature];
  for (let place = first; place < columns.starts[feature + 1]; place += 1) {
    const x = columns.position[2 * place] * scale;
    const y = columns.position[2 * place + 1] * scale;
    points.push({
      x, y, hue: hueOf(x, y), sample: columns.sample[place],
      strength: columns.amplitude[place] / 65535 * columns.largest[feature],
      listed: place - first < columns.listed[feature],
    });
  }
  return points;
};

const nameOf = (sample) => table.names?.[table.document[sample]] ?? "";

const shortTextOf = (sample) => {
  if (table.token) return table.token[sample].trim() || "no text";
  if (table.kind === "patches") {
    const patch = table.patch[sample];
    const where = patch ? `row ${patch[0]}, column ${patch[1]}` : `position ${table.position[sample]}`;
    return `${nameOf(sample) || `picture ${table.document[sample]}`}, ${where}`;
  }
  return table.kind === "rows" ? `sample ${table.document[sample]}` : `text ${table.document[sample]}`;
};

const whereOf = (sample) => {
  const document_ = table.document[sample];
  const position = table.position[sample];
  if (table.kind === "tokens") return `text ${document_}, token ${position}`;
  if (table.kind === "patches") return shortTextOf(sample);
  return position ? `sample ${document_}, position ${position}` : `sample ${document_}`;
};

// The words of the listed samples, each once: what the list shows and the search finds.
const words = new Map();
const wordsOf = (feature) => {
  if (!words.has(feature)) {
    const first = columns.starts[feature];
    const all = new Set();
    for (let place = first; place < first + columns.listed[feature]; place += 1) {
      const sample = columns.sample[place];
      all.add(table.kind === "patches" ? nameOf(sample) || shortTextOf(sample) : shortTextOf(sample));
    }
    words.set(feature, [...all]);
  }
  return words.get(feature);
};

const percent = (share) => {
  const value = 100 * share;
  if (value === 0) return "0 %";
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toPrecision(1)} %`;
};
const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));
