
/* The page: texts from its form or from a file, answers below and as CSV */

const AT_ONCE = 64;    // texts that are computed before the page may redraw itself
const MOST_SHOWN = 100;
const MOST_OTHERS = 3; // classes that are shown beside the answer
const DIGITS = 4;      // of a probability, as potstill predict writes it
const TEXT_NAMES = ["text", "sentence", "sentence1", "content", "review", "question", "query", "utterance", "message"];
const PAIR_NAMES = ["pair", "text2", "text_b", "sentence2", "question2", "hypothesis"];

const at = id => document.getElementById(id);
const say = text => { at("status").textContent = text; };
const complain = text => { at("trouble").textContent = text; at("trouble").hidden = !text; };
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const percent = share => share > 0.999 ? ">\u202f99.9\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`;
const redraw = () => new Promise(resolve => setTimeout(resolve));
let classifier = null, asked = 0, answered = [], records = [];

class Trouble extends Error {}

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

async function start() {
  const bytes = atob(at("weights").textContent), packed = new Uint8Array(bytes.length);
  for (let place = 0; place < bytes.length; place++) packed[place] = bytes.charCodeAt(place);
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  classifier = Classifier.load(await new Response(unpacked).arrayBuffer());
  at("weights").remove();
  const several = Array.isArray(classifier.student.threshold) ? "any number" : "one";
  at("about").textContent = `Gives each ${classifier.inPairs ? "pair of texts" : "text"} ${several} of `
    + `${classifier.labelNames.length} classes, on this device: what you type or open stays here.`;
  at("classes").textContent = classifier.labelNames.join(" · ");
  at("classes").parentElement.hidden = false;
  if (classifier.inPairs) at("texts-label").textContent = "Pairs of texts, one per line, | or a tab between the two";
  at("submit").disabled = at("choose").disabled = false;
}

/* Texts: [{line, parts}] */

function fromLines(content) {
  const rows = content.split(/\r\n|[\n\r]/).map((text, place) => ({ line: place + 1, parts: [text] }))
    .filter(({ parts: [text] }) => strip(text));
  if (classifier.inPairs) {
    for (const row of rows) {
      const separator = row.parts[0].includes("\t") ? "\t" : "|";
      row.parts = row.parts[0].split(separator);
      if (row.parts.length !== 2) {
        throw new Trouble(`Line ${row.line}: expected two texts with | or a tab between them.`);
      }
    }
  }
  return rows;
}

/** Records of CSV (RFC 4180) with the lines where they begin; the header tells what separates the cells. */
function readCsv(content) {
  const header = content.slice(0, content.search(/\r|\n|$/)), often = sign => header.split(sign).length;
  const separator = [",", ";", "\t"].reduce((one, other) => often(other) > often(one) ? other : one);
  const cell = new RegExp(`("[^"]*(?:""[^"]*)*"|(?!")[^${separator}\\r\\n]*)(${separator}|\\r\\n|\\n|\\r|$)`, "gy");
  const records = [];
  for (let cells = [], line = 1, begun = 1; cell.lastIndex < content.length;) {
    const [whole, value, end] = cell.exec(content) ?? [];
    if (whole === undefined) throw new Trouble(`Line ${line}: expected the end of a cell behind its quotation marks.`);
    cells.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    line += whole.split(/\r\n|[\n\r]/).length - 1;
    if (end === separator && cell.lastIndex < content.length) continue;
    if (cells.some(strip)) records.push({ line: begun, cells });
    [cells, begun] = [[], line];
  }
  return records;
}

async function open(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const wide = { "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.subarray(0, 2).join()];
  let content;
  try {
    content = new TextDecoder(wide ?? "utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Trouble(`${file.name} is no text in UTF-8: save it as UTF-8, and open it again.`);
  }
  at("columns").hidden = true;
  if (!/\.(csv|tsv)$/i.test(file.name)) return classify(fromLines(content));
  const [header, ...found] = readCsv(content);
  const names = header?.cells.map(strip) ?? [];
  const roles = classifier.inPairs ? [["Text", TEXT_NAMES], ["Second text", PAIR_NAMES]] : [["Text", TEXT_NAMES]];
  if (names.length < roles.length) {
    throw new Trouble(`${file.name}: expected a header and ${count(roles.length, "column")} of texts.`);
  }
  records = found;
  at("columns").replaceChildren(...roles.map(([role, usual], place) => {
    const options = names.map((name, number) => new Option(name || `column ${number + 1}`, number));
    const select = make("select", "", ...options);
    const likely = usual.find(one => names.some(name => name.toLowerCase() === one));
    select.selectedIndex = likely ? names.findIndex(name => name.toLowerCase() === likely) : place;
    select.addEventListener("change", () => guarded(classifyTable));
    return make("label", "", `${role} in column `, select);
  }));
  at("columns").hidden = names.length === roles.length;
  return classifyTable();
}

function classifyTable() {
  const chosen = Array.from(at("columns").querySelectorAll("select"), select => Number(select.value));
  return classify(records.map(({ line, cells }) => ({ line, parts: chosen.map(place => cells[place] ?? "") }))
    .filter(({ parts }) => parts.some(strip)));
}

/* Answers */

async function classify(rows) {
  const own = asked;
  if (!rows.length) throw new Trouble("There is no text: type one, or choose a file.");
  const started = performance.now();
  for (let place = 0; place < rows.length; place += AT_ONCE) {
    const part = rows.slice(place, place + AT_ONCE);
    const answers = classifier.predict(part.map(({ parts }) => classifier.inPairs ? parts : parts[0]));
    answered.push(...part.map((row, number) => ({ ...row, ...answers[number] })));
    at("answers").append(...answered.slice(place, MOST_SHOWN).map(card));
    if (answered.length === rows.length) break;
    say(`${answered.length.toLocaleString("en")} of ${count(rows.length, "text")} …`);
    await redraw();
    if (own !== asked) return; // newer texts took over
  }
  const time = Math.max((performance.now() - started) / 1000, 0.01).toFixed(2);
  const shown = rows.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} below` : "";
  say(`${count(rows.length, classifier.inPairs ? "pair" : "text")} in ${time} s${shown}.`);
  at("save").hidden = false;
}

function card({ parts, label, probability, probabilities, truncated }) {
  const level = make("i"), bar = make("span", "bar", level);
  level.style.width = `${100 * probability}%`;
  bar.setAttribute("aria-hidden", "true");
  const named = [label].flat(), shown = label === null ? "not sure enough" : named.join(", ") || "no class";
  const others = [...probabilities].filter(([name]) => !named.includes(name)).sort(([, one], [, other]) => other - one);
  const next = others.slice(0, MOST_OTHERS).map(([name, share]) => `${name} ${percent(share)}`).join(" · ");
  const verdict = make("div", "verdict",
    make("b", "", shown), bar, make("span", "", percent(probability)), make("span", "others", next));
  if (truncated) verdict.append(make("span", "others", "Only the beginning was read: the text is too long."));
  return make("li", "", make("p", "", parts.map(strip).join("  |  ")), verdict);
}

function save() {
  const names = classifier.labelNames, parts = classifier.inPairs ? ["text", "pair"] : ["text"];
  const cell = label => Array.isArray(label) ? JSON.stringify(label) : label ?? "";
  const quoted = value => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const rows = [["line", ...parts, "label", "probability", ...names.map(name => `probability_${name}`)],
    ...answered.map(row => [row.line, ...row.parts.map(strip), cell(row.label), row.probability.toFixed(DIGITS),
      ...names.map(name => row.probabilities.get(name).toFixed(DIGITS))])];
  const content = rows.map(row => row.map(value => quoted(String(value))).join(",") + "\r\n");
  const link = make("a");
  Object.assign(link, { href: URL.createObjectURL(new Blob(content, { type: "text/csv" })), download: "answers.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** What a person does: it takes the place of what was there, and what goes wrong is said. */
async function guarded(action) {
  complain("");
  at("answers").replaceChildren();
  at("save").hidden = true;
  [asked, answered] = [asked + 1, []];
  try {
    await action();
  } catch (error) {
    say("");
    complain(error instanceof Trouble ? error.message : `Something went wrong on this page: ${error.message}`);
  }
}

const submit = () => {
  at("columns").hidden = true;
  guarded(() => classify(fromLines(at("texts").value)));
};
at("form").addEventListener("submit", event => { event.preventDefault(); submit(); });
at("texts").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && classifier) { event.preventDefault(); submit(); }
});
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = "";
  if (file) guarded(() => open(file));
});
at("save").addEventListener("click", save);
for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, event => {
    event.preventDefault();
    document.body.classList.toggle("over", type === "dragover");
    const file = type === "drop" && event.dataTransfer.files[0];
    if (file && classifier) guarded(() => open(file));
  });
}
guarded(start);
