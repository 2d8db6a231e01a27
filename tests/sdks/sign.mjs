// Signs webhooks with the SDKs of those who send them, as sign.py does. A line of JSON in, a line of JSON out.

import { createInterface } from "node:readline";

import { sign as signForGithub, verify as verifyForGithub } from "@octokit/webhooks-methods";
import jsonwebtoken from "jsonwebtoken";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";

const sdks = {
  standardwebhooks({ secret, id, time, body }) {
    const signature = new Webhook(secret).sign(id, new Date(time * 1000), body);
    return { "webhook-id": id, "webhook-timestamp": String(time), "webhook-signature": signature };
  },
  stripe({ secret, time, body }) {
    const header = Stripe.webhooks.generateTestHeaderString({ payload: body, secret, timestamp: time });
    return { "stripe-signature": header };
  },
  async github({ secret, body }) {
    const signature = await signForGithub(secret, body);
    if (!(await verifyForGithub(secret, body, signature))) throw new Error("not taken by its own SDK");
    return { "x-hub-signature-256": signature };
  },
  jwt({ secret, claims }) {
    return { authorization: `Bearer ${jsonwebtoken.sign(claims, secret, { algorithm: "HS512", noTimestamp: true })}` };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const work = JSON.parse(line);
  const headers = await sdks[work.sdk](work);
  console.log(JSON.stringify({ headers, url: work.url, body: work.body }));
}
