// Clients of MQTT.js in one process, told what to do by lines of JSON on stdin; answers and messages go to stdout the same way.
'use strict';

const mqtt = require('mqtt');
const readline = require('readline');

const clients = new Map();

const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');

const commands = {
  async connect({ client: name, port, version }) {
    const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, {
      protocolVersion: version,
      reconnectPeriod: 0,
      connectTimeout: 15000,
    }, false);
    client.on('message', (topic, payload, packet) => {
      const { qos, retain } = packet;
      tell({ client: name, message: { topic, payload: payload.toString('base64'), qos, retain } });
    });
    clients.set(name, client);
  },
  async subscribe({ client, filters, qos }) {
    const granted = await clients.get(client).subscribeAsync(filters, { qos });
    return granted.map((one) => one.qos);
  },
  async publish({ client, topic, payload, qos }) {
    await clients.get(client).publishAsync(topic, Buffer.from(payload, 'base64'), { qos });
  },
  async end({ client }) {
    await clients.get(client).endAsync();
    clients.delete(client);
  },
};

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  const request = JSON.parse(line);
  try {
    tell({ number: request.number, result: await commands[request.do](request) });
  } catch (error) {
    tell({ number: request.number, error: String(error) });
  }
});
lines.on('close', () => process.exit(0));
