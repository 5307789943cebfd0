// What somebody with the administrator's token can do on the page of a running kithd, and somebody without cannot.
//
//   node admin.mjs BASE_URL TOKEN BROKEN_FILE GOOD_PICTURE
//
// Expects images of one unknown person, one image of Eileen Collins, who is enrolled, and one image that failed because
// BROKEN_FILE, the file it names, is no picture.

import { copyFile } from "node:fs/promises";
import process from "node:process";

import { appears, check, open as openAt, read } from "./reader.mjs";

const [base, token, broken, good] = process.argv.slice(2);
if (!good) {
  console.error("usage: node admin.mjs BASE_URL TOKEN BROKEN_FILE GOOD_PICTURE");
  process.exit(2);
}
const at = (path) => new URL(path, base).href;
const open = (browser, path, options) => openAt(browser, at(path), options);
const told = (page) => page.locator(".told p").innerText();
const json = async (path) => (await fetch(at(path))).json();

async function logIn(page, next) {
  await page.goto(at(`/login?next=${encodeURIComponent(next)}`));
  await page.fill("#token", token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(at(next));
}

/** Reading is open; each change leads to the log-in, and is refused without one. */
async function asksForALogInBeforeAChange(browser) {
  const page = await open(browser, "/people", { refusals: [401, 403] });
  check((await page.locator("main form[method=post]").count()) === 0, "Somebody not logged in is offered a change.");
  await page.getByRole("link", { name: "Log in to change this" }).click();
  await page.waitForURL("**/login?next=*people*");
  await page.fill("#token", "not the token");
  await page.getByRole("button", { name: "Log in" }).click();
  await appears(page.getByRole("alert"), "A wrong token is not answered with a sentence.");
  await page.fill("#token", token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(at("/people"));
  await appears(page.getByRole("button", { name: "Add" }), "Somebody logged in is offered no change.");
  for (const path of ["/images/1/forget", "/people/1/forget", "/strangers/1/ignore"]) {
    const answer = await fetch(at(path), { method: "POST", redirect: "manual" });
    check(answer.status >= 300, `A change without a log-in was answered ${answer.status}: ${path}`);
  }
  check((await json("/v1/people")).people.length === 1, "A change without a log-in was made.");
  await page.getByRole("button", { name: "Log out" }).click();
  await page.goto(at("/people"));
  check((await page.locator("main form[method=post]").count()) === 0, "Somebody who logged out is offered a change.");
  await page.context().close();
}

/** One click names a group, and the images of the past say so. */
async function namesAStranger(browser) {
  const page = await open(browser, "/strangers");
  await appears(page.locator("#strangers .card").first(), "No stranger appears by itself.", { timeout: 60_000 });
  await logIn(page, "/?outcome=unknown");
  const unknown = await page.locator("table.images tbody tr").evaluateAll((rows) => rows.map((row) => row.id));
  check(unknown.length === 2, `Two images of one unknown person were expected, not ${unknown}.`);
  await page.getByRole("link", { name: "Strangers" }).click();
  const card = page.locator("#strangers .card").first();
  check((await card.innerText()).includes("2 faces"), `The two faces are not one stranger: ${await card.innerText()}`);
  await card.locator("input[name=name]").fill("Barack Obama");
  await card.getByRole("button", { name: "Name" }).click();
  await page.waitForURL("**/people/*");
  check((await page.locator("h1").innerText()) === "Barack Obama", "The stranger did not become a person.");
  await page.goto(at("/"));
  for (const id of unknown) {
    const row = await page.locator(`#${id}`).innerText();
    check(row.includes("Barack Obama") && row.includes("known"), `A past image of the stranger reads: ${row}`);
  }
  await page.goto(at("/strangers"));
  check((await page.locator("#strangers .card").count()) === 0, "Who has a name is still a stranger.");
  await page.context().close();
}

/** A file that was mended is read when an operator says so. */
async function triesAFailedImageAgain(browser) {
  const page = await open(browser, "/");
  await logIn(page, "/?state=failed");
  const rows = page.locator("table.images tbody tr");
  check((await rows.count()) === 1, "There is not the one failed image.");
  check((await rows.first().locator(".reason").innerText()).length > 10, "A failed image says no reason.");
  await rows.first().locator("th a").click();
  await copyFile(good, broken);
  await page.getByRole("button", { name: "Try again" }).click();
  await appears(page.locator(".told .done"), "Trying again is not confirmed.");
  await appears(page.locator("h1 .badge"), "An image that is tried again does not end in the open page.", { timeout: 60_000 });
  const again = new URL(page.url());
  check(!again.searchParams.has("done"), "A reload would say again what was done once.");
  await page.context().close();
}

/** A wrong match is taken back, a face is named from its image. */
async function saysWhoAFaceIsAndIsNot(browser) {
  const page = await open(browser, "/");
  const { images } = await json("/v1/images?outcome=known&limit=500");
  const wrong = images.find((image) => image.persons.includes("Eileen Collins"));
  check(wrong, "Nobody was taken for Eileen Collins.");
  await logIn(page, `/images/${wrong.id}`);
  await page.getByRole("button", { name: "Not Eileen Collins" }).click();
  await appears(page.locator(".told .done"), "That it is somebody else is not confirmed.");
  const names = await page.locator("#face-1 h3").innerText();
  check(!names.includes("Eileen"), `The face is still taken for her: ${names}`);
  await page.locator("#face-1 input[name=name]").fill("Her Sister");
  await page.getByRole("button", { name: "Name this face" }).click();
  await appears(page.locator("#face-1 h3 a", { hasText: "Her Sister" }), "A face that was named does not show its name.");
  await page.context().close();
}

/** People are added, renamed, merged and erased; without JavaScript, because nothing of it needs any. */
async function managesPeopleWithoutJavaScript(browser) {
  const page = await open(browser, "/login", { javaScriptEnabled: false });
  await logIn(page, "/people");
  await page.getByLabel("Name", { exact: true }).last().fill("Joseph");
  await page.locator("input[type=file]").setInputFiles(good);
  await page.getByRole("button", { name: "Add" }).click();
  check((await page.locator(".told .refused").count()) === 0, `Adding somebody was refused: ${await told(page)}`);
  await page.locator("#people").getByRole("link", { name: "Joseph" }).last().click();
  check((await page.locator(".pictures tbody tr").count()) === 1, "Their picture is not among the enrolled ones.");
  // Another picture of him under another name is refused by who he is, and taken when told.
  await page.goto(at("/people"));
  const form = page.locator("form[enctype]");
  for (const anyway of [false, true]) {
    await form.locator("input[name=name]").fill("Impostor");
    await form.locator("input[type=file]").setInputFiles(good.replace("biden_1", "biden_2"));
    await form.locator("input[name=anyway]").setChecked(anyway);
    await page.getByRole("button", { name: "Add" }).click();
    const answer = await told(page);
    const expected = anyway ? "the face resembles Joseph" : "this face is Joseph";
    check(answer.includes(expected), `Enrolling a face of Joseph as Impostor is answered with: ${answer}`);
  }
  await page.goto(at("/people?name=IMPOSTOR"));
  await page.locator("#people").getByRole("link", { name: "Impostor" }).last().click();
  await page.locator(".panel summary").click();
  await page.getByRole("button", { name: "Erase this person" }).click();
  await page.goto(at("/people?name=joseph"));
  await page.locator("#people").getByRole("link", { name: "Joseph" }).last().click();
  await page.locator("form[action*=rename] input").fill("Joe Biden");
  await page.getByRole("button", { name: "Rename" }).click();
  check((await page.locator("h1").innerText()) === "Joe Biden", "The new name is not shown.");

  await page.selectOption("select[name=into]", { label: "Her Sister" });
  await page.getByRole("button", { name: "Merge into them" }).click();
  check((await page.locator("h1").innerText()) === "Her Sister", `After merging the page is ${await page.locator("h1").innerText()}.`);
  check((await page.locator(".pictures tbody tr").count()) === 2, "Not all pictures went with them.");

  await page.locator(".panel summary").click();
  await page.getByRole("button", { name: "Erase this person" }).click();
  await page.waitForURL("**/people?done=*");
  const left = (await json("/v1/people")).people.map((person) => person.name).sort();
  check(left.join() === "Barack Obama,Eileen Collins", `After erasing these are left: ${left}`);

  await page.goto(at("/strangers?ignored=1"));
  await page.goto(at("/health"));
  await page.getByRole("button", { name: "Hold open" }).click();
  await page.waitForURL("**/health?done=*");
  check((await page.locator("#engines .badge").innerText()) === "forced open", "The circuit breaker was not held open.");
  await page.getByRole("button", { name: "Close now" }).click();
  await page.waitForURL("**/health?done=*");
  await page.context().close();
}

await read(async (browser) => {
  await asksForALogInBeforeAChange(browser);
  await namesAStranger(browser);
  await triesAFailedImageAgain(browser);
  await saysWhoAFaceIsAndIsNot(browser);
  await managesPeopleWithoutJavaScript(browser);
}, "Changes need a log-in, strangers get names, failed images another try, and people are managed without JavaScript.");
