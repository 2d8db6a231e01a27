// The plain design beside which the hub is measured: one Node.js process that takes a webhook, stores it, forwards the order and
// only then answers. Generous to it: no framework, no mapper between objects and tables, no sanitising, connections kept open.
//
// An order's row is committed before the order is forwarded, and again after it. A provider that waits for its answer before it sends
// the next word about an order has them forwarded in order; nothing else keeps the order of an order. What is under way when
// the process dies stays `processing`.

import http from 'node:http';
import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import pg from 'pg';

const { DATABASE_URL, BACKEND_URL, CAREEM_WEBHOOK_SECRET } = process.env;
// Connections that may wait to be taken; the default is less than the bench opens.
const BACKLOG = 4096;
const MAX_BODY = 5 * 1024 * 1024;
const PATH = /^\/api\/webhooks\/careem\/?$/;

const database = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
const agent = new http.Agent({ keepAlive: true, maxSockets: 32 });
const backend = new URL('/api/integration/orders', BACKEND_URL);

await database.query(`CREATE TABLE IF NOT EXISTS plain_webhook_logs (
  id text PRIMARY KEY, provider_id text NOT NULL, webhook_type text NOT NULL, external_order_id text, internal_order_id text,
  endpoint text NOT NULL, method text NOT NULL DEFAULT 'POST', headers jsonb, payload jsonb NOT NULL, signature text,
  status text NOT NULL, received_at timestamptz NOT NULL DEFAULT now(), processed_at timestamptz, response jsonb)`);
await database.query('CREATE INDEX IF NOT EXISTS plain_external ON plain_webhook_logs (external_order_id)');

const INSERT = {
  name: 'insert',
  text: `INSERT INTO plain_webhook_logs (id, provider_id, webhook_type, external_order_id, endpoint, headers, payload, signature, status)
    VALUES ($1, 'careem', 'order_created', $2, '/api/webhooks/careem', $3, $4, $5, 'processing')`,
};
const COMPLETE = {
  name: 'complete',
  text: `UPDATE plain_webhook_logs SET status = 'completed', processed_at = now(), internal_order_id = $2, response = $3 WHERE id = $1`,
};

async function bodyOf(stream) {
  const parts = [];
  let length = 0;
  for await (const part of stream) {
    length += part.length;
    if (length > MAX_BODY) throw new Error('a body that is too large');
    parts.push(part);
  }
  return Buffer.concat(parts, length);
}

function isSigned(raw, signature) {
  const sent = Buffer.from(signature ?? '', 'hex');
  const expected = createHmac('sha256', CAREEM_WEBHOOK_SECRET).update(raw).digest();
  return sent.length === expected.length && timingSafeEqual(sent, expected);
}

/** The backend's order of a webhook. */
function transformed(webhook) {
  return {
    originalWebhook: { providerId: 'careem', webhookType: 'order_created', orderId: webhook.id, timestamp: webhook.created_at },
    transformedOrder: {
      orderNumber: `CAREEM-${webhook.id}`,
      customerName: webhook.customer.name,
      customerPhone: webhook.customer.phone_number,
      orderType: 'delivery',
      status: 'pending',
      items: webhook.items.map((item) => ({
        ref: item.id,
        name: item.name,
        quantity: item.quantity,
        unitPrice: item.item_price,
        total: item.total_price,
        modifiers: item.groups.flatMap((group) => group.options),
      })),
      pricing: webhook.price,
    },
    metadata: { provider: 'careem', transformedAt: new Date(), version: '1.0.0' },
  };
}

function forward(order) {
  const body = Buffer.from(JSON.stringify(order));
  return new Promise((resolve, reject) => {
    const request = http.request(
      backend,
      {
        method: 'POST',
        agent,
        headers: { 'content-type': 'application/json', 'content-length': body.length, 'x-integration-service': 'true' },
      },
      (answer) => {
        bodyOf(answer).then((raw) => {
          if (answer.statusCode !== 200) throw new Error(`the backend answered ${answer.statusCode}`);
          resolve(JSON.parse(raw));
        }).catch(reject);
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

async function receive(request) {
  if (request.method !== 'POST' || !PATH.test(request.url)) return [404, { success: false }];
  const raw = await bodyOf(request);
  const signature = request.headers['x-careem-signature'];
  if (!isSigned(raw, signature)) return [401, { success: false, error: { code: 'INVALID_SIGNATURE' } }];
  const text = raw.toString();
  const webhook = JSON.parse(text);
  const id = randomUUID();
  await database.query({ ...INSERT, values: [id, webhook.id, JSON.stringify(request.headers), text, signature] });
  const answer = await forward(transformed(webhook));
  await database.query({ ...COMPLETE, values: [id, answer.orderId, JSON.stringify(answer)] });
  return [200, { success: true, message: 'Webhook processed', data: { requestId: id, orderId: answer.orderId } }];
}

const server = http.createServer(async (request, response) => {
  let [status, body] = [500, { success: false }];
  try {
    [status, body] = await receive(request);
  } catch (error) {
    console.error(error.message);
  }
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
});
// The bench pauses between two runs for longer than the default of 5 s; a connection ended meanwhile would be a failed request.
server.keepAliveTimeout = 60_000;
process.on('SIGTERM', () => process.exit(0));
server.listen({ host: '127.0.0.1', port: 0, backlog: BACKLOG }, () => console.log(`ready ${server.address().port}`));
