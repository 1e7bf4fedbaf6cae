/* What style sheets cannot do: names and tab stops for readers without a mouse, chapter numbers,
   and a page on paper that is light and unfolded. Without it the book still reads. */
"use strict";

/* A chapter's number stands before its name wherever a list links to it. */
function numberChapters() {
  const lists = ".bd-links a.reference, .prev-next-area a, .bd-article .toctree-wrapper a";
  for (const link of document.querySelectorAll(lists)) {
    const chapter = new URL(link.href).pathname.match(/\/notebooks\/(\d\d)_[^/]*$/);
    const name = link.querySelector(".prev-next-title") || link;
    if (chapter) name.dataset.chapter = chapter[1];
  }
  const own = location.pathname.match(/\/notebooks\/(\d\d)_[^/]*$/);
  for (const title of document.querySelectorAll(".bd-article h1, #jb-print-docs-body h1")) {
    if (own) title.dataset.chapter = own[1]; // the second is the title on paper
  }
}

/* The arrows that unfold a part of the contents say of what, and what a list holds are items. */
function nameParts() {
  for (const toggle of document.querySelectorAll(".bd-links summary")) {
    const link = toggle.closest("li")?.querySelector(":scope > a");
    if (link) toggle.setAttribute("aria-label", `Pages under ${link.textContent.trim()}`);
  }
  for (const entry of document.querySelectorAll("[role=list] > [role=doc-biblioentry]")) {
    entry.setAttribute("role", "listitem");
  }
}

/* What scrolls by itself can be reached and scrolled from the keyboard. */
function addTabStops() {
  const scrolling = ".math, .cell_output .output > div, .bd-article figure, .table-scroll";
  for (const part of document.querySelectorAll(scrolling)) {
    if (part.scrollWidth > part.clientWidth + 1) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

/* From when to when stays on one line. */
function keepTimesWhole() {
  for (const cell of document.querySelectorAll(".bd-article td")) {
    if (/^\d\d:\d\d–\d\d:\d\d$/.test(cell.textContent.trim())) cell.style.whiteSpace = "nowrap";
  }
}

/* On paper nothing can be unfolded, and ink is dark on white. */
function onPaper() {
  const root = document.documentElement;
  let folded = [];
  let theme = null;
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll(".bd-article details:not([open])")];
    for (const part of folded) part.open = true;
    theme = root.dataset.theme;
    root.dataset.theme = "light";
  });
  window.addEventListener("afterprint", () => {
    for (const part of folded) part.open = false;
    if (theme) root.dataset.theme = theme;
  });
}

document.addEventListener("DOMContentLoaded", () => {
  numberChapters();
  nameParts();
  keepTimesWhole();
  onPaper();
  addTabStops();
  window.addEventListener("resize", addTabStops);
  window.MathJax?.startup?.promise?.then(addTabStops);
});
window.addEventListener("load", addTabStops);
