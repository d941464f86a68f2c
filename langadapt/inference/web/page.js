"use strict";

// A conversation with models, and their answers side by side. Text reaches the page as text nodes only: whatever a model
// wrote, nothing of it is read as markup. The conversation is kept in this tab; the server keeps nothing.

const $ = (id) => document.getElementById(id);
const KEPT = "conversation";

let entries = [];  // {question, compare, replies: [{reply, figures, title, chat, forgotten}], refusals: [{refused, why}]}
let models = [];
let asked = null;  // id of the question that is being answered

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.append(document.createTextNode(text));
  return made;
}

// ---- what is shown

function follow(change) {
  const box = $("entries");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  change();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function showEntry(question) {
  const article = element("article", "");
  const said = element("div", "question text", question);
  const replies = element("div", "replies");
  said.dir = "auto";
  article.append(said, replies);
  follow(() => $("entries").append(article));
  return { article, replies, columns: new Map() };
}

// The column of a model's reply, made when its first piece comes.
function column(shown, name) {
  if (!shown.columns.has(name)) {
    const reply = element("div", "reply");
    const made = { head: element("h2", "", name), text: element("div", "text"), figures: element("p", "figures", "…") };
    made.text.dir = "auto";
    reply.append(made.head, made.text, made.figures);
    reply.dataset.model = name;
    const order = models.map((model) => model.name);
    const after = [...shown.replies.children].find(
      (other) => order.indexOf(other.dataset.model) > order.indexOf(name));
    shown.replies.insertBefore(reply, after ?? null);
    shown.columns.set(name, made);
  }
  return shown.columns.get(name);
}

function showReply(shown, told) {
  const { head, text, figures } = column(shown, told.reply.model);
  head.textContent = told.title;
  text.textContent = told.reply.answer;
  const forgotten = told.forgotten ? `; the ${told.forgotten} oldest questions no longer fit into the context` : "";
  figures.textContent = told.figures + forgotten;
}

function showRefusal(shown, { refused, why }) {
  column(shown, refused).figures.textContent = why;
}

function showEvent(shown, event) {
  $("status").textContent = event.waiting ? "Another question is being answered; this one waits for its turn." : "";
  if (event.model) column(shown, event.model).text.firstChild.appendData(event.piece);
  if (event.reply) showReply(shown, event);
  if (event.refused) showRefusal(shown, event);
}

function showAll() {
  $("entries").replaceChildren();
  for (const entry of entries) {
    const shown = showEntry(entry.question);
    entry.replies.forEach((told) => showReply(shown, told));
    entry.refusals.forEach((refusal) => showRefusal(shown, refusal));
  }
  showButtons();
}

function showButtons() {
  for (const id of ["send", "compare", "retry", "undo", "clear", "export"]) $(id).disabled = asked !== null;
  for (const id of ["retry", "undo", "clear", "export"]) $(id).disabled ||= entries.length === 0;
  $("stop").disabled = asked === null;
  $("compare").hidden = models.length < 2;
}

function showPath() {
  $("path").textContent = models.find((model) => model.name === $("model").value).path;
}

// ---- what is asked

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(entries));
  } catch {  // its room is used up
    $("status").textContent = "This conversation is too long for the tab to keep; export it before you leave.";
  }
}

// The conversation so far: answers of models that take turns.
function exchanges() {
  return entries.filter((entry) => !entry.compare && entry.replies[0].chat && entry.replies[0].reply.answer)
    .map((entry) => [entry.question, entry.replies[0].reply.answer]);
}

function request(fields) {
  const inputs = [...$("sampling").querySelectorAll("input")];
  return {
    model: $("model").value,
    system: $("system").value,
    exchanges: exchanges(),
    sampling: Object.fromEntries(inputs.map((input) => [input.name, input.value])),
    ...fields,
  };
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

// The events of a response, as many at a time as have come: a fast model must not wait for the page to be laid out.
async function* batches(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const parts = (rest + read.value).split("\n");
    rest = parts.pop();
    yield parts.map((part) => JSON.parse(part));
  }
}

// Ask, show the answers as they come, and return whether there was any.
async function put(question, compare) {
  asked = crypto.randomUUID();
  $("status").textContent = "";
  showButtons();
  const shown = showEntry(question);
  const replies = [], refusals = [];
  try {
    for await (const events of batches(await post("/answer", request({ id: asked, question, compare })))) {
      follow(() => events.forEach((event) => showEvent(shown, event)));
      replies.push(...events.filter((event) => event.reply));
      refusals.push(...events.filter((event) => event.refused));
      const failed = events.find((event) => event.error);
      if (failed) throw new Error(failed.error);
    }
  } catch (error) {
    $("status").textContent = error.message;
  }
  if (replies.length) {
    entries.push({ question, compare, replies, refusals });
    keep();
  } else {
    shown.article.remove();
  }
  asked = null;
  showButtons();
  return replies.length > 0;
}

async function send(compare) {
  const question = $("question").value;
  if (asked !== null || !question.trim()) return;
  $("question").value = "";
  if (!await put(question, compare)) $("question").value ||= question;
}

async function retry() {
  const last = entries.pop();
  showAll();
  if (!await put(last.question, last.compare)) entries.push(last);
  showAll();
}

function cut(start) {
  entries.splice(start);
  keep();
  showAll();
}

async function save() {
  try {
    const saved = await (await post("/transcript", request({}))).json();
    saved.comparisons = entries.filter((entry) => entry.compare)
      .map((entry) => ({ prompt: entry.question, replies: entry.replies.map((told) => told.reply) }));
    const link = element("a", "");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 2) + "\n"], { type: "application/json" }));
    link.download = "conversation.json";
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    $("status").textContent = error.message;
  }
}

// ---- the start

async function begin() {
  const start = await (await fetch("/start")).json();
  models = start.models;
  $("model").append(...models.map((model) => new Option(model.name)));
  $("system").value = start.system;
  for (const { key, value, meaning } of start.sampling) {
    const label = element("label", "", key);
    const input = element("input", "");
    Object.assign(input, { name: key, value });
    label.title = meaning;
    label.append(input);
    $("sampling").append(label);
  }
  entries = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  showPath();
  showAll();
}

$("model").addEventListener("change", showPath);
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send(false);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;  // an input method takes Enter for itself
  event.preventDefault();
  send(false);
});
$("compare").addEventListener("click", () => send(true));
$("stop").addEventListener("click", () => post("/stop", request({ id: asked })));
$("retry").addEventListener("click", retry);
$("undo").addEventListener("click", () => cut(-1));
$("clear").addEventListener("click", () => cut(0));
$("export").addEventListener("click", save);
begin();
