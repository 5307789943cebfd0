// Opens a page of another site that shows the board's page in a frame, and one of its pictures.
//
//   node frame.mjs PANEL_URL shown|refused

import process from "node:process";

import { check, PATIENCE_MS, read } from "./reader.mjs";

const [panel, expected] = process.argv.slice(2);
if (!["shown", "refused"].includes(expected)) {
  console.error("usage: node frame.mjs PANEL_URL shown|refused");
  process.exit(2);
}

await read(async (browser) => {
  const page = await (await browser.newContext()).newPage();
  await page.goto(panel, { waitUntil: "load", timeout: PATIENCE_MS });
  const width = await page.locator("img").evaluate((image) => image.naturalWidth);
  check((width > 0) === (expected === "shown"), `The picture is ${width} pixels wide, where it is to be ${expected}.`);
  const inside = await page.frameLocator("iframe").locator(".masthead").count().catch(() => 0);
  check((inside > 0) === (expected === "shown"), `The page is ${inside > 0 ? "shown" : "refused"}, not ${expected}.`);
}, `The frame is ${expected}.`);
