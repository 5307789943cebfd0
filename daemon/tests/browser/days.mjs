// Two readers of the timeline, one in Tokyo and one in New York: each sees the visits under headings of the own days.
//
// Usage: node daemon/tests/browser/days.mjs BASE-URL
//
// Three visits have ended, at 14:00 and 16:00 UTC of 2026-11-23 and at 02:00 of the next day.

import process from "node:process";
import { check, isLive, open, read } from "./reader.mjs";

const address = new URL("sightings", process.argv[2]).href;

/** Returns each heading of a day with its number of visits; browsers differ in the comma after the day of the week. */
const daysOf = (page) => page.locator("#timeline .days h2").evaluateAll((headings) =>
  headings.map((heading) => `${heading.textContent.replace(",", "")}: ${heading.nextElementSibling.querySelectorAll(".visited").length}`));

async function shows(browser, options, expected) {
  const page = await open(browser, address, { locale: "en-GB", ...options });
  if (options.javaScriptEnabled !== false) await isLive(page);
  const days = await daysOf(page);
  check(days.join("; ") === expected, `The headings are "${days.join("; ")}", not "${expected}".`);
  const folder = process.env.KITHD_SCREENSHOTS;
  if (folder) await page.screenshot({ path: `${folder}/days-${options.timezoneId?.replace("/", "-") ?? "plain"}.png` });
  await page.context().close();
}

await read(async (browser) => {
  await shows(browser, { timezoneId: "Asia/Tokyo" }, "Tuesday 24 November 2026: 2; Monday 23 November 2026: 1");
  await shows(browser, { timezoneId: "America/New_York" }, "Monday 23 November 2026: 3");
  await shows(browser, { javaScriptEnabled: false }, "2026-11-24 UTC: 1; 2026-11-23 UTC: 2");
}, "Visits are under headings of the reader's own days.");
