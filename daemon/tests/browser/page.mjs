// Looks at the page of a running kithd in headless Chromium, as a reader would: live rows, scroll place, keyboard,
// no JavaScript. Not a test of recognition: an image counts as shown whatever became of it.
//
//   node page.mjs BASE_URL IMAGE [SCREENSHOT_FOLDER]
//
// Needs playwright-core (found from the folder named by KITHD_NODE_MODULES, or Node's usual way) and Chromium at
// CHROMIUM or /usr/bin/chromium. Exits 1 with a sentence when something is not as it should be.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const [base, image, shots] = process.argv.slice(2);
if (!base || !image) {
  console.error("usage: node page.mjs BASE_URL IMAGE [SCREENSHOT_FOLDER]");
  process.exit(2);
}
const home = process.env.KITHD_NODE_MODULES;
const require = createRequire(home ? path.join(path.resolve(home), "from.js") : import.meta.url);
const { chromium } = require("playwright-core");

/** More than a screen of rows, so that there is something to scroll. */
const ROWS = 40;
const PATIENCE_MS = 10_000;
const picture = await readFile(image);
const complaints = new Set();
const check = (holds, sentence) => {
  if (!holds) throw new Error(sentence);
};

/** Waits for something to be on the page; the sentence is said when it does not come. */
async function appears(locator, sentence, { state = "visible", timeout = PATIENCE_MS } = {}) {
  await locator.waitFor({ state, timeout }).catch(() => check(false, sentence));
}

const isLive = (page) => appears(page.locator("#connection[data-state=live]"), "The page does not say that it is live.");

async function post() {
  const kind = image.endsWith(".png") ? "image/png" : "image/jpeg";
  const answer = await fetch(new URL("/v1/images", base), { method: "POST", headers: { "content-type": kind }, body: picture });
  check(answer.status === 202, `Posting a picture was answered ${answer.status}, not 202.`);
}

async function newestId() {
  const answer = await fetch(new URL("/v1/images?limit=1", base));
  return (await answer.json()).images[0]?.id ?? 0;
}

/** A page whose every complaint and every request to elsewhere is kept. */
async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.violatedDirective}`));
  });
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.add(`The console says: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.add(`The script failed: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(base).origin)) complaints.add(`Something outside was asked for: ${request.url()}`);
  });
  await page.goto(base, { waitUntil: "load" });
  return page;
}

const row = (id) => `#image-${id}`;
const placeOf = (page, id) => page.locator(row(id)).evaluate((element) => element.getBoundingClientRect().top);

async function showsNewImagesWithoutReload(browser) {
  const page = await open(browser);
  await page.evaluate(() => { window.notReloaded = true; });
  await isLive(page);
  await post();
  const id = await newestId();
  await appears(page.locator(row(id)), "A posted image does not appear in the open page.");
  const finished = page.locator(`${row(id)} .state:is(.processed, .failed)`);
  await appears(finished, "A posted image does not become processed or failed in the open page.", { timeout: 60_000 });
  check(await page.evaluate(() => window.notReloaded === true), "The page reloaded itself to show a new image.");
  check((await page.locator("table.images caption").innerText()).length > 0, "The table has no caption.");
  const scopes = await page.locator("table.images thead th").evaluateAll((heads) => heads.map((head) => head.scope));
  check(scopes.length === 9 && scopes.every((scope) => scope === "col"), `The table's heads have the scopes ${scopes}.`);
  await page.context().close();
}

/** Rows stop changing, so that the one being read is not replaced while the test takes hold of it. */
async function allFinished() {
  for (let round = 0; round < 600; round += 1) {
    const { counts } = await (await fetch(new URL("v1/status", base))).json();
    if (counts.pending + counts.processing === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  check(false, "The posted images do not finish within a minute.");
}

async function keepsTheScrollPlace(browser) {
  const page = await open(browser);
  await isLive(page);
  const read = await page.locator("table.images tbody tr").nth(15).getAttribute("id");
  const id = Number(read.replace("image-", ""));
  await page.locator(row(id)).evaluate((element) => element.scrollIntoView({ block: "start" }));
  await page.locator(`${row(id)} th a`).evaluate((link) => link.focus({ preventScroll: true }));
  const before = await placeOf(page, id);
  await post();
  await post();
  const newest = await newestId();
  await appears(page.locator(row(newest)), "New rows do not arrive while the reader scrolls.", { state: "attached" });
  await page.waitForTimeout(1200); // further events of the same images
  const moved = Math.abs((await placeOf(page, id)) - before);
  check(moved <= 1, `The row being read moved by ${moved} pixels when new rows arrived.`);
  const focused = await page.evaluate(() => document.activeElement?.closest("tr")?.id);
  check(focused === read, "The keyboard lost its place when new rows arrived.");
  await page.context().close();
}

async function showsWhereTheKeyboardIs(browser) {
  const page = await open(browser);
  const seen = new Set();
  for (let step = 0; step < 8; step += 1) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      const box = document.activeElement.getBoundingClientRect();
      return {
        name: document.activeElement.outerHTML.slice(0, 80),
        visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.right > 0,
      };
    });
    check(focus.visible, `The keyboard is on ${focus.name} and nothing shows it.`);
    seen.add(focus.name);
  }
  check([...seen].some((name) => name.includes('href="/images/')), "The keyboard does not reach the images of the table.");
  await page.context().close();
}

async function worksWithoutJavaScript(browser) {
  const page = await open(browser, { javaScriptEnabled: false });
  check((await page.locator("table.images tbody tr").count()) > 0, "Without JavaScript the table is empty.");
  check(/UTC$/.test(await page.locator("table.images time").first().innerText()), "Without JavaScript times lack their zone.");
  await page.locator("table.images tbody th a").first().click();
  check(/^Image \d+/.test(await page.locator("h1").innerText()), "Without JavaScript an image's link leads nowhere.");
  await page.context().close();
}

async function fitsAPhone(browser) {
  const page = await open(browser, { viewport: { width: 390, height: 844 } });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  check(wide <= 0, `On a phone the page is ${wide} pixels too wide.`);
  await page.context().close();
}

async function photograph(browser) {
  for (const [name, colorScheme, width] of [["light", "light", 1280], ["dark", "dark", 1280], ["phone", "light", 390]]) {
    const page = await open(browser, { colorScheme, viewport: { width, height: 844 } });
    await page.screenshot({ path: path.join(shots, `page-${name}.png`) });
    await page.context().close();
  }
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
try {
  await showsNewImagesWithoutReload(browser);
  for (let number = 0; number < ROWS; number += 1) await post();
  await allFinished();
  await keepsTheScrollPlace(browser);
  await showsWhereTheKeyboardIs(browser);
  await worksWithoutJavaScript(browser);
  await fitsAPhone(browser);
  if (shots) await photograph(browser);
  check(complaints.size === 0, "The page complains:");
  console.log("The page is live, keeps the reader's place, and works by keyboard, on a phone and without JavaScript.");
} catch (error) {
  console.error([error.message, ...complaints].join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
