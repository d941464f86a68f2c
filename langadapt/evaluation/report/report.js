
// The predictions of all models side by side. Text reaches the page as text nodes only: whatever a model wrote, nothing
// of it is read as markup.

const PAGE = 20;  // items shown at once
const LONGEST = 4e6;  // units of reference times units of hypothesis, beyond which nothing is marked

// As langadapt.text.segmentation: numbers, characters of scripts without spaces, tsheg syllables, words.
const NO_SPACES = "\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Thai}\\p{sc=Lao}\\p{sc=Khmer}\\p{sc=Myanmar}";
const UNIT = new RegExp(
  `\\p{N}+|(?=\\p{L})[${NO_SPACES}]\\p{M}*|(?:(?=[\\p{L}\\p{M}])\\p{sc=Tibetan})+` +
  `|(?:(?![${NO_SPACES}\\p{sc=Tibetan}])[\\p{L}\\p{M}])+|[^\\s\\u0f0b]`, "gu");

const $ = (selector) => document.querySelector(selector);

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// ---- differences

// Cut a text into units; each keeps the white space and tshegs that follow it. What precedes the first is in `start`.
function cut(text) {
  const found = [...text.matchAll(UNIT)];
  const units = found.map((match, n) => ({
    unit: match[0],
    text: text.slice(match.index, n + 1 < found.length ? found[n + 1].index : text.length),
  }));
  return { start: found.length ? text.slice(0, found[0].index) : text, units };
}

// Return, for each unit of both lists in reading order, which side has it: [side, unit], side "both", "left" or "right".
// A longest common subsequence, after the equal beginning and end are taken off; null where the lists are too long.
function align(left, right) {
  let first = 0;
  while (first < left.length && first < right.length && left[first].unit === right[first].unit) first++;
  let last = 0;
  while (last < left.length - first && last < right.length - first &&
         left[left.length - 1 - last].unit === right[right.length - 1 - last].unit) last++;
  const a = left.slice(first, left.length - last), b = right.slice(first, right.length - last);
  if (a.length * b.length > LONGEST) return null;
  const width = b.length + 1;
  const common = new Uint16Array((a.length + 1) * width);  // of what is left from (i, j) on
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] = a[i].unit === b[j].unit
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const steps = right.slice(0, first).map((unit) => ["both", unit]);
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && a[i].unit === b[j].unit) {
      steps.push(["both", b[j]]);
      i++;
      j++;
    } else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      steps.push(["left", a[i++]]);
    } else {
      steps.push(["right", b[j++]]);
    }
  }
  return steps.concat(right.slice(right.length - last).map((unit) => ["both", unit]));
}

// Return the hypothesis as nodes: what the reference lacks marked, and, if asked, what the hypothesis lacks struck out.
function marked(reference, hypothesis, lacking) {
  const right = cut(hypothesis);
  const steps = align(cut(reference).units, right.units);
  if (!steps) return [hypothesis];
  const nodes = [right.start];
  let run = "", kind = "both";
  const flush = () => {
    if (run) nodes.push(kind === "both" ? run : element(kind === "right" ? "mark" : "del", "", run));
    run = "";
  };
  for (const [side, { text }] of steps) {
    if (side === "left" && !lacking) continue;
    if (side !== kind) flush();
    kind = side;
    run += text;
  }
  flush();
  return nodes;
}

// ---- predictions

const blocks = [...document.querySelectorAll("script[type='application/json']")];
const parsed = new Map();  // a group is parsed when it is first looked at
let page = 0, shown = [];

function currentGroup() {
  const block = blocks[$("#group").value];
  if (block && !parsed.has(block)) parsed.set(block, JSON.parse(block.textContent));
  return parsed.get(block);
}

function currentColumns(group) {
  const prompt = $("#prompt").value;
  return group.columns.filter((column) => prompt === "all" || (prompt === "own" ? column.own : column.prompt === prompt));
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) select.value = before;
}

function groupChanged() {
  const group = currentGroup();
  const prompts = [...new Set(group.columns.map((column) => column.prompt))];
  fill($("#prompt"), [["own", "each model's own"], ...prompts.map((name) => [name, name]), ["all", "all"]]);
  const stops = [...new Set(group.columns.flatMap((column) => column.stops))].filter(Boolean);
  fill($("#stop"), [["", "any way"], ...stops.map((reason) => [reason, reason])]);
  $("#prompts").replaceChildren(...group.columns.map((column) => element("details", "",
    element("summary", "", `${column.model}, ${column.prompt}`), element("pre", "", column.first))));
  filter();
}

function filter() {
  const group = currentGroup(), columns = currentColumns(group);
  const words = $("#search").value.normalize("NFC").toLowerCase(), stop = $("#stop").value;
  const has = (text) => text !== null && text.normalize("NFC").toLowerCase().includes(words);
  shown = [];
  group.items.forEach((item, n) => {
    const stopped = !stop || columns.some((column) => column.stops[n] === stop);
    if (stopped && (item.some(has) || columns.some((column) => has(column.texts[n])))) shown.push(n);
  });
  page = 0;
  draw();
}

function draw() {
  const group = currentGroup(), columns = currentColumns(group);
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  const numbers = shown.slice(page * PAGE, (page + 1) * PAGE);
  $("#count").textContent = `${shown.length.toLocaleString("en")} of ${group.items.length.toLocaleString("en")} items`;
  document.querySelectorAll(".where").forEach((place) => { place.textContent = `page ${page + 1} of ${pages}`; });
  document.querySelectorAll(".previous").forEach((button) => { button.disabled = page === 0; });
  document.querySelectorAll(".next").forEach((button) => { button.disabled = page + 1 >= pages; });
  $("#items").replaceChildren(...numbers.map((n) => article(group, columns, n)));
}

function article(group, columns, n) {
  const [id, source, reference, origin] = group.items[n];
  const rows = [
    row("given", group.source, ["source"], [source]),
    row("given", group.target, ["reference"], [reference]),
    ...columns.filter((column) => column.texts[n] !== null).map((column) => hypothesis(group, column, n, reference)),
  ];
  return element("article", "", element("h4", "", id, " ", element("span", "origin", origin)), ...rows);
}

function hypothesis(group, column, n, reference) {
  const name = [`${column.model}, ${column.prompt} `];
  const text = column.texts[n];
  if (!text.trim()) name.push(element("span", "flag", "empty"));
  if (column.stops[n] === "length") name.push(element("span", "flag", "cut off"));
  return row("", group.target, name, $("#marks").checked ? marked(reference, text, $("#lacking").checked) : [text]);
}

function row(className, language, name, nodes) {
  const text = element("div", "text", ...nodes);
  text.lang = language;
  return element("div", `row ${className}`, element("div", "name", ...name), text);
}

function turn(by) {
  page += by;
  draw();
  $("#predictions").scrollIntoView();
}

if (blocks.length) {
  const names = blocks.map((block, n) => [String(n), block.dataset.name]);
  fill($("#group"), names);
  $("#group").addEventListener("change", groupChanged);
  ["#prompt", "#stop"].forEach((selector) => $(selector).addEventListener("change", filter));
  ["#marks", "#lacking"].forEach((selector) => $(selector).addEventListener("change", draw));
  $("#search").addEventListener("input", filter);
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll(".previous").forEach((button) => button.addEventListener("click", () => turn(-1)));
  document.querySelectorAll(".next").forEach((button) => button.addEventListener("click", () => turn(1)));
  groupChanged();
} else {
  $("#filters").remove();
  $("#count").textContent = "No translations were made, or their files are missing.";
}
