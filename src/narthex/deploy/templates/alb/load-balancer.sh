#!/usr/bin/env bash
# An external Application Load Balancer in front of the Cloud Run service @{name}.
# Written by `narthex deploy render --platform alb`; deploy/terraform has the same as Terraform.
#
# Time-outs: a serverless group takes no back-end time-out (Google refuses --timeout there): Cloud Run's request
# time-out, @{request_timeout_s} s, ends a socket. For every other kind of back end the default is 30 s, which is the
# LIFE of a socket, not its idle time: pass --timeout=@{request_timeout_s}s there.
# Addresses: the load balancer adds its own behind the client's, so the service needs NARTHEX_TRUSTED_PROXIES=2. Without
# it all users have one address, and share its limits.
# WAF: Cloud Armor sees the handshake, never the frames. Limit handshakes per address above what an office behind one
# address needs, and exclude the header Authorization and the cookie from rules that inspect values: a JWT looks like
# an attack to some of them. A refusal by Cloud Armor is a 403 with an HTML body: `narthex doctor` tells it apart.
set -euo pipefail

gcloud compute network-endpoint-groups create @{name} \
  --region=@{region} \
  --network-endpoint-type=serverless \
  --cloud-run-service=@{name}

gcloud compute backend-services create @{name} \
  --global \
  --load-balancing-scheme=EXTERNAL_MANAGED

gcloud compute backend-services add-backend @{name} \
  --global \
  --network-endpoint-group=@{name} \
  --network-endpoint-group-region=@{region}

gcloud compute security-policies create @{name}
gcloud compute security-policies rules create 1000 \
  --security-policy=@{name} \
  --src-ip-ranges='*' \
  --action=throttle \
  --rate-limit-threshold-count=600 \
  --rate-limit-threshold-interval-sec=60 \
  --conform-action=allow \
  --exceed-action=deny-429 \
  --enforce-on-key=IP
gcloud compute backend-services update @{name} \
  --global \
  --security-policy=@{name}

gcloud compute ssl-certificates create @{name} \
  --global \
  --domains=@{domain}
gcloud compute url-maps create @{name} \
  --default-service=@{name}
gcloud compute target-https-proxies create @{name} \
  --url-map=@{name} \
  --ssl-certificates=@{name}
gcloud compute addresses create @{name} \
  --global
gcloud compute forwarding-rules create @{name} \
  --global \
  --address=@{name} \
  --load-balancing-scheme=EXTERNAL_MANAGED \
  --target-https-proxy=@{name} \
  --ports=443
# For the A record of @{domain}; the certificate becomes valid some time after it.
gcloud compute addresses describe @{name} \
  --global \
  --format='value(address)'
