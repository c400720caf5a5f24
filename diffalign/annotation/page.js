"use strict";

const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowUp: "tie", t: "tie", ArrowDown: "bad", b: "bad", s: "skip",
  Backspace: "back", u: "back",
};
const WORDS = { left: "the left picture", right: "the right picture", tie: "equally good", bad: "both bad", skip: "skipped" };
const token = document.querySelector("meta[name=token]").content;
const byId = (id) => document.getElementById(id);
const sections = ["start", "judge", "end"];

let rater = "";
let items = []; // comparisons in order: id, prompt, left, right (addresses), choice
let todo = new Set(); // indices that are still to be shown
let at = -1; // the one on the page
let visited = []; // indices that were voted on, for going back
let shownAt = null; // when both pictures were there; null while they are not
let saving = false;

function open(section) {
  for (const id of sections) byId(id).hidden = id !== section;
}

function complain(text) {
  byId("error").textContent = text;
  byId("error").hidden = text === "";
}

async function ask(path, body) {
  const how = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-Token": token },
  };
  let answer;
  try {
    answer = await fetch(path, { ...how, cache: "no-store" });
  } catch {
    throw new Error("there is no answer. Is diffalign annotate still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `the answer was ${answer.status}`);
  return content;
}

const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- who votes

function remembered() {
  const named = new URLSearchParams(location.search).get("rater");
  try {
    return (named || localStorage.getItem("rater") || "").trim();
  } catch {
    return (named || "").trim(); // storage may be forbidden
  }
}

async function askName() {
  rater = "";
  byId("who").textContent = "";
  byId("count").textContent = "";
  byId("change").hidden = true;
  byId("progress").value = 0;
  const session = await ask("/session");
  byId("total").textContent = plural(session.total, "time");
  const names = Object.entries(session.raters).sort();
  byId("known").hidden = names.length === 0;
  byId("names").replaceChildren(...names.map(([name, done]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${name} (${done} of ${session.total})`;
    button.addEventListener("click", () => guarded(() => begin(name)));
    return button;
  }));
  open("start");
  byId("name").focus();
}

async function begin(name) {
  const session = await ask(`/session?rater=${encodeURIComponent(name)}`);
  rater = name;
  history.replaceState(null, "", `?rater=${encodeURIComponent(name)}`);
  try {
    localStorage.setItem("rater", name);
  } catch { /* the address has the name too */ }
  items = session.comparisons;
  todo = new Set([...items.keys()].filter((index) => items[index].choice === null));
  visited = [];
  at = -1;
  byId("who").textContent = name;
  byId("change").hidden = false;
  await showNext();
}

// ---------------------------------------------------------------- one comparison after the other

function nextIndex() {
  const ahead = [...todo].sort((one, other) => one - other);
  return ahead.find((index) => index > at) ?? ahead[0];
}

async function showNext() {
  const index = nextIndex();
  if (index === undefined) await showEnd();
  else await show(index);
}

function showProgress() {
  const done = items.filter((item) => item.choice !== null).length;
  byId("count").textContent = `${done} of ${items.length}`;
  byId("progress").max = items.length;
  byId("progress").value = done;
}

function earlier() {
  return visited.length > 0 ? visited[visited.length - 1] : at - 1;
}

async function load(image, address) {
  image.src = address;
  await image.decode();
  const shown = image.clientWidth / image.naturalWidth;
  image.classList.toggle("pixelated", image.naturalWidth <= 256 && Math.min(shown, image.clientHeight / image.naturalHeight) >= 1.5);
}

async function show(index) {
  at = index;
  const item = items[index];
  shownAt = null;
  open("judge");
  showProgress();
  byId("pair").classList.add("waiting");
  byId("prompt").textContent = item.prompt || "(no text)";
  byId("before").hidden = item.choice === null;
  byId("said").textContent = item.choice === null ? "" : `You said: ${WORDS[item.choice]}. Choose again to change it.`;
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === item.choice));
  }
  byId("back").disabled = earlier() < 0;
  byId(item.choice === null ? "prompt" : "keep").focus({ preventScroll: true });
  byId("status").textContent = `Comparison ${index + 1} of ${items.length}: ${item.prompt}`;
  try {
    await Promise.all([load(byId("left"), item.left), load(byId("right"), item.right)]);
  } catch {
    if (at === index) complain("A picture cannot be shown. Skip this one, or look at the folder.");
    return;
  }
  if (at !== index) return;
  byId("pair").classList.remove("waiting");
  shownAt = performance.now();
  preload(index);
}

function preload(index) {
  for (const next of [...todo].filter((other) => other > index).sort((one, other) => one - other).slice(0, 2)) {
    new Image().src = items[next].left;
    new Image().src = items[next].right;
  }
}

async function vote(choice) {
  if (saving || at < 0 || (shownAt === null && choice !== "skip")) return;
  const index = at;
  const seconds = shownAt === null ? 0 : (performance.now() - shownAt) / 1000;
  saving = true;
  try {
    await ask("/vote", { comparison: items[index].id, rater, choice, seconds });
  } catch (error) {
    complain(`Not saved: ${error.message} Your choice does not count yet: try again.`);
    return;
  } finally {
    saving = false;
  }
  complain("");
  items[index].choice = choice;
  todo.delete(index);
  visited = visited.filter((other) => other !== index);
  visited.push(index);
  await guarded(showNext);
}

async function goBack() {
  if (saving) return;
  const index = earlier();
  if (index < 0) return;
  visited.pop();
  complain("");
  await show(index);
}

// ---------------------------------------------------------------- the end

const share = (number) => (number === null ? "-" : `${Math.round(100 * number)} %`);
const figure = (number) => (number === null ? "undefined" : number.toFixed(2));

async function showEnd() {
  const before = at;
  at = -1;
  showProgress();
  const skipped = items.filter((item) => item.choice === "skip").length;
  const summary = await ask("/summary");
  byId("mine").textContent = `${plural(items.length, "comparison")} judged${skipped ? `, ${skipped} of them skipped` : ""}.`
    + " You may close this page.";
  byId("again").hidden = skipped === 0;
  byId("again").textContent = `Look at the skipped ${skipped === 1 ? "one" : skipped} again`;
  byId("last").onclick = () => guarded(() => show(visited.pop() ?? (before < 0 ? items.length - 1 : before)));
  byId("people").replaceChildren(...summary.raters.map((person) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = person.rater;
    const left = person.left.value === null ? "-" : `${share(person.left.value)} (${share(person.left.low)} to ${share(person.left.high)})`;
    const { tie, bad, skip } = person.choices;
    const cells = [person.votes, tie, bad, skip, left, person.seconds].map((content) => {
      const cell = document.createElement("td");
      cell.textContent = String(content);
      return cell;
    });
    row.append(name, ...cells);
    return row;
  }));
  byId("agreement").replaceChildren(...agreement(summary.agreement).map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
  open("end");
  byId("done").focus();
}

function agreement({ pairs, alpha, comparisons }) {
  if (pairs.length === 0) return ["Nobody else has voted yet."];
  const lines = pairs.map(({ raters, common, agreement: same, kappa }) => common === 0
    ? `${raters.join(" and ")}: nothing in common yet`
    : `${raters.join(" and ")}: the same answer on ${share(same)} of ${common}, Cohen's kappa ${figure(kappa)}`);
  if (pairs.length > 1) lines.push(`all: Krippendorff's alpha ${figure(alpha)} on ${plural(comparisons, "comparison")}`);
  return lines;
}

// ---------------------------------------------------------------- what people do

async function guarded(action) {
  try {
    complain("");
    await action();
  } catch (error) {
    complain(`It did not work: ${error.message}`);
  }
}

document.addEventListener("keydown", (event) => {
  if (byId("judge").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action === undefined) return;
  event.preventDefault(); // arrows would scroll
  if (event.repeat) return;
  if (action === "back") guarded(goBack);
  else vote(action);
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
byId("back").addEventListener("click", () => guarded(goBack));
byId("keep").addEventListener("click", () => guarded(showNext));
byId("change").addEventListener("click", () => guarded(askName));
byId("again").addEventListener("click", () => guarded(async () => {
  todo = new Set([...items.keys()].filter((index) => items[index].choice === "skip"));
  await showNext();
}));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(() => begin(byId("name").value.trim()));
});

guarded(async () => {
  const name = remembered();
  if (name) {
    try {
      await begin(name);
      return;
    } catch (error) {
      complain(`It did not work: ${error.message}`);
    }
  }
  await askName();
});
