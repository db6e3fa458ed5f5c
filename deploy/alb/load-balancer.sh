#!/usr/bin/env bash
# An external Application Load Balancer in front of the Cloud Run service narthex.
# Written by `narthex deploy render --platform alb`; deploy/terraform has the same as Terraform.
#
# Time-outs: a serverless group takes no back-end time-out (Google refuses --timeout there): Cloud Run's request
# time-out, 3600 s, ends a socket. For every other kind of back end the default is 30 s, which is the
# LIFE of a socket, not its idle time: pass --timeout=3600s there.
# Addresses: the load balancer adds its own behind the client's, so the service needs NARTHEX_TRUSTED_PROXIES=2. Without
# it all users have one address, and share its limits.
# WAF: Cloud Armor sees the handshake, never the frames. Limit handshakes per address above what an office behind one
# address needs, and exclude the header Authorization and the cookie from rules that inspect values: a JWT looks like
# an attack to some of them. A refusal by Cloud Armor is a 403 with an HTML body: `narthex doctor` tells it apart.
set -euo pipefail

gcloud compute network-endpoint-groups create narthex \
  --region=europe-west1 \
  --network-endpoint-type=serverless \
  --cloud-run-service=narthex

gcloud compute backend-services create narthex \
  --global \
  --load-balancing-scheme=EXTERNAL_MANAGED

gcloud compute backend-services add-backend narthex \
  --global \
  --network-endpoint-group=narthex \
  --network-endpoint-group-region=europe-west1

gcloud compute security-policies create narthex
gcloud compute security-policies rules create 1000 \
  --security-policy=narthex \
  --src-ip-ranges='*' \
  --action=throttle \
  --rate-limit-threshold-count=600 \
  --rate-limit-threshold-interval-sec=60 \
  --conform-action=allow \
  --exceed-action=deny-429 \
  --enforce-on-key=IP
gcloud compute backend-services update narthex \
  --global \
  --security-policy=narthex

gcloud compute ssl-certificates create narthex \
  --global \
  --domains=chat.example.com
gcloud compute url-maps create narthex \
  --default-service=narthex
gcloud compute target-https-proxies create narthex \
  --url-map=narthex \
  --ssl-certificates=narthex
gcloud compute addresses create narthex \
  --global
gcloud compute forwarding-rules create narthex \
  --global \
  --address=narthex \
  --load-balancing-scheme=EXTERNAL_MANAGED \
  --target-https-proxy=narthex \
  --ports=443
# For the A record of chat.example.com; the certificate becomes valid some time after it.
gcloud compute addresses describe narthex \
  --global \
  --format='value(address)'
