// A reader of kithd's page in headless Chromium who notes every complaint: what the console says, what breaks the
// Content-Security-Policy, what is asked of somebody else. The scripts beside it say what the reader does.
//
// Needs playwright-core (found from the folder named by KITHD_NODE_MODULES, or Node's usual way) and Chromium at
// CHROMIUM or /usr/bin/chromium. The process exits 1 with a sentence when something is not as it should be.

import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const home = process.env.KITHD_NODE_MODULES;
const require = createRequire(home ? path.join(path.resolve(home), "from.js") : import.meta.url);
const { chromium } = require("playwright-core");

export const PATIENCE_MS = 10_000;
const complaints = new Set();

export const check = (holds, sentence) => {
  if (!holds) throw new Error(sentence);
};

/** Waits for something to be on the page; the sentence is said when it does not come. */
export async function appears(locator, sentence, { state = "visible", timeout = PATIENCE_MS } = {}) {
  await locator.waitFor({ state, timeout }).catch(() => check(false, sentence));
}

export const isLive = (page) => appears(page.locator("#connection[data-state=live]"), "The page does not say that it is live.");

/** A page of its own. A status that is meant to be refused may be named, because the console tells it too. */
export async function open(browser, url, { refusals = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.violatedDirective}`));
  });
  page.on("console", (message) => {
    const meant = refusals.some((status) => message.text().includes(`the server responded with a status of ${status}`));
    if (["error", "warning"].includes(message.type()) && !meant) complaints.add(`The console says: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.add(`The script failed: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(url).origin)) complaints.add(`Something outside was asked for: ${request.url()}`);
  });
  await page.goto(url, { waitUntil: "load" });
  return page;
}

/** Opens the browser, lets the reader do something, and ends the process. */
export async function read(what, done) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
  });
  try {
    await what(browser);
    check(complaints.size === 0, "The page complains:");
    console.log(done);
  } catch (error) {
    console.error([error.message, ...complaints].join("\n"));
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
}
