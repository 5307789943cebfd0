// Uses the page of a running kithd as a proxy serves it, perhaps under a path of its own: live, with its style, links,
// pictures and forms.
//
//   node proxy.mjs BASE_URL TOKEN PICTURE

import process from "node:process";

import { appears, check, isLive, open, read } from "./reader.mjs";

const [base, token, picture] = process.argv.slice(2);
if (!picture) {
  console.error("usage: node proxy.mjs BASE_URL TOKEN PICTURE");
  process.exit(2);
}
const at = (path) => new URL(path, base).href;

async function isWholeAndLive(browser) {
  const page = await open(browser, base);
  await isLive(page);
  const styled = await page.evaluate(() => getComputedStyle(document.querySelector(".masthead")).display);
  check(styled !== "block", "The page has no style.");
  for (const place of ["Sightings", "People", "Strangers", "Health", "Calibration", "API", "Images"]) {
    await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: place }).click();
    check(page.url().startsWith(base), `${place} leads out of the proxy's path to ${page.url()}.`);
    check((await page.locator("[aria-current=page]").first().innerText()) === place, `${place} is not shown.`);
  }
  await page.context().close();
}

async function logsInAndEnrols(browser) {
  const page = await open(browser, at("people"));
  await page.getByRole("link", { name: "Log in to change this" }).click();
  await page.fill("#token", token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(at("people"));
  await page.fill("input[name=name]:not([type=search])", "Joe");
  await page.setInputFiles("input[type=file]", picture);
  await page.getByRole("button", { name: "Add" }).click();
  await appears(page.locator(".told p.done"), "Nobody was enrolled.", { timeout: 60_000 });
  await page.getByRole("heading", { name: "Joe" }).getByRole("link").click();
  check(page.url() === at("people/1"), `The person's page is at ${page.url()}.`);
  const shown = await page.locator("main img").first().evaluate((image) => image.complete && image.naturalWidth > 0);
  check(shown, "The person's face is not shown.");
  await page.getByRole("button", { name: "Log out" }).click();
  await page.waitForURL(base);
  await appears(page.getByRole("link", { name: "Log in" }), "Somebody who logged out is still there.");
  await page.context().close();
}

await read(async (browser) => {
  await isWholeAndLive(browser);
  await logsInAndEnrols(browser);
}, "The page works through the proxy.");
