// Looks at the page of a running kithd in headless Chromium, as a reader would: live rows, scroll place, keyboard,
// no JavaScript. Not a test of recognition: an image counts as shown whatever became of it.
//
//   node page.mjs BASE_URL IMAGE [SCREENSHOT_FOLDER]
//
// The images of people and strangers are there before. reader.mjs says what is needed.

import { readFile } from "node:fs/promises";
import path from "node:path";
import process from "node:process";

import { appears, check, isLive, open as openAt, read } from "./reader.mjs";

const [base, image, shots] = process.argv.slice(2);
if (!base || !image) {
  console.error("usage: node page.mjs BASE_URL IMAGE [SCREENSHOT_FOLDER]");
  process.exit(2);
}
/** More than a screen of rows, so that there is something to scroll. */
const ROWS = 60;
/** Pages with their heads; all of them are complete without JavaScript, fit a phone and break no rule. */
const PAGES = [
  ["/", "Images"], ["/sightings", "Who was here"], ["/people", "People"], ["/strangers", "Strangers"], ["/strangers?ignored=1", "Ignored"],
  ["/health", "Health"], ["/health?hours=168", "Health"], ["/calibration", "Calibration"], ["/api", "API"], ["/docs", "Install"],
  ["/people/1", "Barack Obama"], ["/images/1", "Image 1"],
];
const picture = await readFile(image);
const open = (browser, options, url = base) => openAt(browser, new URL(url, base).href, options);

async function post() {
  const kind = image.endsWith(".png") ? "image/png" : "image/jpeg";
  const answer = await fetch(new URL("/v1/images", base), { method: "POST", headers: { "content-type": kind }, body: picture });
  check(answer.status === 202, `Posting a picture was answered ${answer.status}, not 202.`);
}

async function newestId() {
  const answer = await fetch(new URL("/v1/images?limit=1", base));
  return (await answer.json()).images[0]?.id ?? 0;
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

/** Who came is here, once, with a face that leads to the picture; the open page says so by itself. */
async function showsWhoIsHere(browser) {
  const page = await open(browser, {}, "/sightings");
  await isLive(page);
  await post();
  const here = page.locator("#presence .here a", { hasText: "Barack Obama" });
  await appears(here, "Who came is not shown as being here.", { timeout: 60_000 });
  const visit = page.locator("#timeline .visited", { hasText: "Barack Obama" });
  await appears(visit.first(), "Who came is not in the timeline.");
  check((await visit.count()) === 1, "One visit has several entries.");
  const face = await visit.locator("a.portrait").getAttribute("href");
  check(/images\/\d+#face-1$/.test(face), `The face of a visit leads to ${face}.`);
  await page.selectOption("select[name=outcome]", "unknown");
  await page.click("#search button");
  await page.waitForURL("**/sightings?outcome=unknown");
  check((await visit.count()) === 0, "Asked for unknown faces, a known person is shown.");
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
  const reached = () => [...seen].some((name) => name.includes('href="./images/'));
  for (let step = 0; step < 60 && !reached(); step += 1) {
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
  check(reached(), "The keyboard does not reach the images of the table.");
  await page.context().close();
}

/** The rows of a search are those that were asked for, it stays in the links, and it goes on by itself. */
async function findsWhatIsAskedFor(browser) {
  const page = await open(browser, { timezoneId: "Asia/Karachi" });
  const rows = page.locator("table.images tbody tr");
  await page.selectOption("select[name=outcome]", "known");
  await page.click("#search button");
  await page.waitForURL("**/?outcome=known");
  const outcomes = await page.locator("table.images tbody .outcome").allInnerTexts();
  check(outcomes.length > 0 && outcomes.every((outcome) => outcome === "known"), `Asked for known, got ${outcomes}.`);
  check((await page.locator("select[name=outcome]").inputValue()) === "known", "The form forgets what was asked for.");
  await isLive(page);
  await post();
  const newest = await newestId();
  await appears(page.locator(row(newest)), "A new image that was asked for does not appear in the search.", { timeout: 60_000 });

  await page.selectOption("select[name=person]", { label: "Eileen Collins" });
  await page.click("#search button");
  await page.waitForURL("**person=**");
  check((await rows.count()) === 0, "Eileen Collins is in none of the images, but some are shown.");
  check((await page.getByText("No image matches.").count()) === 1, "An empty search does not say so.");
  await page.getByRole("link", { name: "Show all" }).click();

  await page.fill("input[name=path]", "no such path");
  await page.press("input[name=path]", "Enter");
  await page.waitForURL("**path=**");
  check((await rows.count()) === 0, "A path that nothing has is found.");
  await page.goto(new URL("/", base).href);

  // Typed in the reader's own zone, asked in UTC, and shown again as typed.
  await page.fill("input[name=since]", "2020-01-01T00:30");
  await page.click("#search button");
  await page.waitForURL("**since=**");
  const typed = await page.locator("input[name=since]").inputValue();
  check(typed === "2020-01-01T00:30", `The moment typed comes back as ${typed}.`);
  const asked = new URL(page.url()).searchParams.get("since");
  check(asked === "2019-12-31T19:30", `The moment asked for is ${asked}, which is not the same in UTC.`);
  check((await rows.count()) > 0, "Nothing is newer than 2020.");
  await page.context().close();
}

async function walksToOlderImagesAndBack(browser) {
  const page = await open(browser, {}, "/?state=processed");
  await page.getByRole("link", { name: "Older" }).click();
  await page.waitForURL("**cursor=**");
  check(page.url().includes("state=processed"), "The way to older images forgets what was asked for.");
  check((await page.locator("#connection").isVisible()) === false, "An older page claims to be live.");
  await page.getByRole("link", { name: "Newest", exact: true }).click();
  await page.waitForURL((url) => !url.search.includes("cursor"));
  await page.context().close();
}

/** The entry of the navigation says where the reader is, to the eye and to a screen reader. */
async function leadsEverywhere(browser) {
  const page = await open(browser);
  for (const name of ["Sightings", "People", "Strangers", "Health", "Calibration", "API", "Images"]) {
    await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name, exact: true }).click();
    const current = await page.locator("nav.places [aria-current=page]").innerText();
    check(current === name, `On ${name} the navigation says ${current}.`);
  }
  await page.context().close();
}

async function worksWithoutJavaScript(browser) {
  const page = await open(browser, { javaScriptEnabled: false });
  check((await page.locator("table.images tbody tr").count()) > 0, "Without JavaScript the table is empty.");
  check(/UTC$/.test(await page.locator("table.images small time").first().innerText()), "Without JavaScript times lack their zone.");
  await page.locator("table.images tbody th a").first().click();
  check(/^Image \d+/.test(await page.locator("h1").innerText()), "Without JavaScript an image's link leads nowhere.");
  for (const [url, head] of PAGES) {
    await page.goto(new URL(url, base).href);
    const title = await page.locator("h1").innerText();
    check(title.includes(head), `Without JavaScript ${url} is headed "${title}".`);
  }
  await page.goto(new URL("/health", base).href);
  check((await page.locator("svg[role=img] title").count()) >= 4, "Without JavaScript the charts are missing.");
  const http = await page.locator("#sources tr", { hasText: "http" }).innerText();
  check(/image \d+/.test(http) && http.includes("ok"), `The source http does not say how it is: ${http}`);
  await page.goto(new URL("/?state=processed&outcome=known", base).href);
  check((await page.locator("table.images tbody tr").count()) > 0, "Without JavaScript nothing is found.");
  await page.context().close();
}

async function fitsAPhone(browser) {
  const page = await open(browser, { viewport: { width: 390, height: 844 } });
  for (const [url] of PAGES) {
    await page.goto(new URL(url, base).href);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    check(wide <= 0, `On a phone ${url} is ${wide} pixels too wide.`);
  }
  await page.context().close();
}

async function photograph(browser) {
  for (const [name, colorScheme, width] of [["light", "light", 1280], ["dark", "dark", 1280], ["phone", "light", 390]]) {
    const page = await open(browser, { colorScheme, viewport: { width, height: 844 } });
    for (const [url] of PAGES) {
      await page.goto(new URL(url, base).href);
      const file = url.replace(/\W+/g, "-").replace(/^-$/, "-images");
      await page.screenshot({ path: path.join(shots, `page${file}-${name}.png`) });
    }
    await page.context().close();
  }
}

await read(async (browser) => {
  await showsNewImagesWithoutReload(browser);
  await showsWhoIsHere(browser);
  for (let number = 0; number < ROWS; number += 1) await post();
  await allFinished();
  await keepsTheScrollPlace(browser);
  await showsWhereTheKeyboardIs(browser);
  await findsWhatIsAskedFor(browser);
  await walksToOlderImagesAndBack(browser);
  await leadsEverywhere(browser);
  await worksWithoutJavaScript(browser);
  await fitsAPhone(browser);
  if (shots) await photograph(browser);
}, "The pages are live, find what is asked for, keep the reader's place, and work by keyboard, on a phone and without JavaScript.");
