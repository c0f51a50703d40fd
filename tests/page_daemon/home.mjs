// What somebody does at home with what the page gave him: keeps files, and runs the commands that it showed.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { told, url } from "../page/browser.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = join(told.folder, "home");
mkdirSync(folder, { recursive: true });

// What `act` makes the browser download, kept under the name that it suggests.
export async function download(page, act) {
  const begun = page.waitForEvent("download");
  await act();
  const file = await begun;
  const path = join(folder, file.suggestedFilename());
  await file.saveAs(path);
  return path;
}

// The folder to which the one of an archive is unpacked.
export function unpack(archive) {
  const names = execFileSync("tar", ["-tf", archive], { encoding: "utf8" }).trim().split("\n");
  execFileSync("tar", ["-xf", archive, "-C", folder]);
  return { names, folder: join(folder, names[0].split("/")[0]) };
}

// A command as the page shows it, with a file in the place of the word that stands for one, where the script lies.
export function run(command, file) {
  const env = { ...process.env, PATH: [dirname(told.program), process.env.PATH].join(delimiter) };
  const ended = spawnSync("bash", ["-c", command.replace(/\bFILE\b/, `'${file}'`)], { cwd: join(root, "tools"), env, encoding: "utf8" });
  return { code: ended.status, said: ended.stdout + ended.stderr };
}

// The command of that name in the card that tells how to verify.
export const command = (page, name) => page.getByRole("region", { name, exact: true }).textContent();

// What the gateway answers to a request that need not succeed, with the token of somebody.
export async function status(bearer, method, path, body) {
  const headers = { authorization: `Bearer ${bearer}`, "content-type": "application/json" };
  return (await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })).status;
}
