// Runs a script of the tests in a browser that is there already. Its settings
// come as JSON on standard input; the script's result goes to result.json.
import { strict as assert } from 'node:assert';
import { writeFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { chromium } from 'playwright-core';

const { endpoint, env, script, patience } = JSON.parse(await text(process.stdin));
const browser = await chromium.connectOverCDP(endpoint);
const errors = [];
const expected = [];
const contexts = []; // those made here; the browser has one of its own
const expectError = (pattern) => { expected.push(pattern); };

// note keeps an error, unless it is about the icon that browsers ask for unbidden,
// or a request that the page itself gave up.
function note(error) {
  if (!/\/favicon\.ico$|net::ERR_ABORTED/.test(error)) errors.push(error);
}

// open gives a page that shares nothing with the others, and notes what goes
// wrong there.
async function open(options) {
  const context = await browser.newContext(options);
  contexts.push(context);
  context.setDefaultTimeout(patience);
  context.on('console', (m) => m.type() === 'error' && note(`console: ${m.text()} ${m.location().url}`));
  context.on('weberror', (e) => note(`script: ${e.error()}`));
  context.on('requestfailed', (r) => note(`request: ${r.failure().errorText} ${r.method()} ${r.url()}`));
  return context.newPage();
}

const pages = () => contexts.flatMap((context) => context.pages());

function judge() {
  const unexpected = errors.filter((error) => !expected.some((pattern) => pattern.test(error)));
  assert.deepEqual(unexpected, [], 'the page had errors');
  const absent = expected.filter((pattern) => !errors.some((error) => pattern.test(error)));
  assert.deepEqual(absent, [], 'the page did not have these errors');
}

const AsyncFunction = (async () => {}).constructor;
const names = { page: await open(), open, env, assert, expectError, browser };
try {
  const result = await new AsyncFunction(...Object.keys(names), script)(...Object.values(names));
  // After an answer of each page, be it a refusal, what it had to say before has arrived.
  await Promise.all(pages().map((page) => page.evaluate('0').catch(() => {})));
  judge();
  writeFileSync('result.json', JSON.stringify(result ?? null));
} catch (e) {
  console.error(`${e.stack}\nErrors until then: ${errors.join('\n') || 'none'}`);
  for (const page of pages()) {
    const seen = await page.innerText('body', { timeout: 1000 }).catch((why) => why.message);
    console.error(`${page.url()} shows:\n${seen.slice(0, 2000)}`);
  }
  process.exitCode = 1;
} finally {
  await Promise.all(contexts.map((context) => context.close()));
  await browser.close(); // hangs up; the browser stays
}
