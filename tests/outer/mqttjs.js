// Clients of MQTT.js in one process, told what to do by lines of JSON on stdin; answers and messages go to stdout the same way.
// With `--chromium` they are in a page of a headless browser.
'use strict';

const fs = require('fs');
const http = require('http');
const readline = require('readline');

const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');

function here() {
  const commandsOf = require('./mqttjs_commands.js');
  const commands = commandsOf(require('mqtt'), tell, (bytes) => bytes.toString('base64'), (text) => Buffer.from(text, 'base64'));
  const run = (request) => {
    const options = request.ca ? { ca: [fs.readFileSync(request.ca)] } : {};
    return commands[request.do]({ ...request, options });
  };
  return { run, close: async () => {} };
}

async function inChromium() {
  const { chromium } = require('playwright-core');
  // The certificate is one that no browser knows. As root there is no sandbox.
  const browser = await chromium.launch({
    timeout: 120000,
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--ignore-certificate-errors'],
  });
  // A page of its own origin, as an application would have.
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  const server = http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html><title>MQTT.js</title>'));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  await page.exposeFunction('tell', (batch) => batch.forEach(tell));
  page.on('pageerror', (error) => process.stderr.write(`${error}\n`));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.addScriptTag({ path: require.resolve('mqtt/dist/mqtt.min') });
  await page.addScriptTag({ path: require.resolve('./mqttjs_commands.js') });
  await page.evaluate(() => {
    const toBase64 = (bytes) => {
      let text = '';
      for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
      return btoa(text);
    };
    const fromBase64 = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    // Messages go over in batches: each way out of the page takes its time.
    let waiting = [];
    const flush = () => {
      const batch = waiting;
      waiting = [];
      window.tell(batch);
    };
    const later = (what) => {
      if (waiting.push(what) === 1) setTimeout(flush, 5);
    };
    window.commands = commandsOf(mqtt, later, toBase64, fromBase64);
  });
  return {
    run: (request) => page.evaluate((one) => window.commands[one.do](one), request),
    close: async () => {
      server.close();
      await browser.close();
    },
  };
}

async function main() {
  const place = process.argv.includes('--chromium') ? await inChromium() : here();
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', async (line) => {
    const request = JSON.parse(line);
    try {
      tell({ number: request.number, result: await place.run(request) });
    } catch (error) {
      tell({ number: request.number, error: String(error) });
    }
  });
  lines.on('close', async () => {
    await place.close();
    process.exit(0);
  });
}

main().catch((error) => {
  process.stderr.write(`${error}\n`);
  process.exit(1);
});
