// What clients of MQTT.js can be told to do, in Node.js and in a browser: `mqtt` is the library, `tell` takes what came.
'use strict';

// eslint-disable-next-line no-unused-vars
function commandsOf(mqtt, tell, toBase64, fromBase64) {
  const clients = new Map();
  return {
    // Answers when everything is there.
    async nothing() {},
    async connect({ client: name, url, version, options }) {
      const client = await mqtt.connectAsync(url, {
        protocolVersion: version,
        reconnectPeriod: 0,
        connectTimeout: 15000,
        ...options,
      }, false);
      client.on('message', (topic, payload, packet) => {
        const { qos, retain } = packet;
        tell({ client: name, message: { topic, payload: toBase64(payload), qos, retain } });
      });
      clients.set(name, client);
    },
    async subscribe({ client, filters, qos }) {
      const granted = await clients.get(client).subscribeAsync(filters, { qos });
      return granted.map((one) => one.qos);
    },
    async publish({ client, topic, payload, qos }) {
      await clients.get(client).publishAsync(topic, fromBase64(payload), { qos });
    },
    // Numbers from 0 on, of which so many are under way that MQTT.js, which does not look at Receive Maximum, stays below it.
    async publishMany({ client, topic, count, qos }) {
      const publish = (number) => clients.get(client).publishAsync(topic, String(number), { qos });
      for (let from = 0; from < count; from += 200) {
        await Promise.all(Array.from({ length: Math.min(200, count - from) }, (_, at) => publish(from + at)));
      }
    },
    async end({ client }) {
      await clients.get(client).endAsync();
      clients.delete(client);
    },
  };
}

if (typeof module !== 'undefined') module.exports = commandsOf;
