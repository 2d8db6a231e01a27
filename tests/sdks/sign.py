"""Signs webhooks with the SDKs of those who send them. A line of JSON in, a line of JSON out.

In: {"sdk", "secret", "url", "body", "id", "time" (Unix seconds), "claims"?}; out: {"headers", "url", "body"}.
Where an SDK can only verify, the signature is made by its documentation and must be accepted by the SDK before it is sent.
"""

import base64
import datetime
import hashlib
import hmac
import json
import sys


def standardwebhooks(work):
    from standardwebhooks import Webhook

    time = datetime.datetime.fromtimestamp(work["time"], datetime.timezone.utc)
    signature = Webhook(work["secret"]).sign(work["id"], time, work["body"])
    return {"webhook-id": work["id"], "webhook-timestamp": str(work["time"]), "webhook-signature": signature}


def stripe(work):
    from stripe import WebhookSignature

    signature = WebhookSignature._compute_signature(f"{work['time']}.{work['body']}", work["secret"])
    header = f"t={work['time']},v1={signature}"
    assert WebhookSignature.verify_header(work["body"], header, work["secret"])
    return {"stripe-signature": header}


def slack(work):
    from slack_sdk.signature import SignatureVerifier

    signature = SignatureVerifier(work["secret"]).generate_signature(timestamp=str(work["time"]), body=work["body"])
    return {"x-slack-request-timestamp": str(work["time"]), "x-slack-signature": signature}


def square(work):
    from square.utils.webhooks_helper import verify_signature

    signed = (work["url"] + work["body"]).encode()
    signature = base64.b64encode(hmac.new(work["secret"].encode(), signed, hashlib.sha256).digest()).decode()
    assert verify_signature(
        request_body=work["body"],
        signature_header=signature,
        signature_key=work["secret"],
        notification_url=work["url"],
    )
    return {"x-square-hmacsha256-signature": signature}


def twilio(work):
    from twilio.request_validator import RequestValidator

    validator = RequestValidator(work["secret"])
    # A body of JSON is named by its hash in the address, which is what is signed.
    work["url"] = f"{work['url']}?bodySHA256={validator.compute_hash(work['body'])}"
    signature = validator.compute_signature(work["url"], {})
    assert validator.validate(work["url"], work["body"], signature)
    return {"x-twilio-signature": signature}


def adyen(work):
    from Adyen.util import generate_notification_sig, is_valid_hmac_notification

    body = json.loads(work["body"])
    item = body["notificationItems"][0]["NotificationRequestItem"]
    signature = generate_notification_sig(item, work["secret"])
    item.setdefault("additionalData", {})["hmacSignature"] = signature.decode() if isinstance(signature, bytes) else signature
    assert is_valid_hmac_notification({"notificationItems": body["notificationItems"]}, work["secret"])
    work["body"] = json.dumps(body)
    return {}


def jwt(work):
    import jwt as sdk

    token = sdk.encode(work["claims"], work["secret"], algorithm="HS512")
    return {"authorization": f"Bearer {token}"}


SDKS = {f.__name__: f for f in (standardwebhooks, stripe, slack, square, twilio, adyen, jwt)}

for line in sys.stdin:
    work = json.loads(line)
    headers = SDKS[work["sdk"]](work)
    print(json.dumps({"headers": headers, "url": work["url"], "body": work["body"]}), flush=True)
