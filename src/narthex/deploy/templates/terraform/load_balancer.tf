# The external Application Load Balancer. A serverless group takes no back-end time-out (Google refuses timeout_sec):
# Cloud Run's request time-out ends a socket. For any other back end set timeout_sec = @{request_timeout_s}: its default
# of 30 s is the life of a socket, not its idle time.
resource "google_compute_region_network_endpoint_group" "narthex" {
  name                  = "@{name}"
  region                = var.region
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = google_cloud_run_v2_service.narthex.name
  }
}

# The revision that the pipeline checks before it has traffic: it carries the tag `candidate`, and is reached at
# candidate.DOMAIN. The service takes requests from the load balancer only, so that its tag's own URL is closed.
resource "google_compute_region_network_endpoint_group" "candidate" {
  name                  = "@{name}-candidate"
  region                = var.region
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = google_cloud_run_v2_service.narthex.name
    tag     = "candidate"
  }
}

resource "google_compute_backend_service" "candidate" {
  name                  = "@{name}-candidate"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  security_policy       = google_compute_security_policy.narthex.id

  backend {
    group = google_compute_region_network_endpoint_group.candidate.id
  }
}

# Cloud Armor sees the handshake, never the frames. Rules that inspect header values must leave out Authorization,
# Cookie and Sec-WebSocket-Protocol: a JWT looks like an attack to some of them.
resource "google_compute_security_policy" "narthex" {
  name = "@{name}"

  rule {
    action   = "throttle"
    priority = 1000
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"
      rate_limit_threshold {
        count        = 600
        interval_sec = 60
      }
    }
  }

  rule {
    action   = "allow"
    priority = 2147483647
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}

resource "google_compute_backend_service" "narthex" {
  name                  = "@{name}"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  security_policy       = google_compute_security_policy.narthex.id

  backend {
    group = google_compute_region_network_endpoint_group.narthex.id
  }

  log_config {
    enable      = true
    sample_rate = 1.0
  }
}

resource "google_compute_managed_ssl_certificate" "narthex" {
  name = "@{name}"

  managed {
    domains = [var.domain, "candidate.${var.domain}"]
  }
}

resource "google_compute_url_map" "narthex" {
  name            = "@{name}"
  default_service = google_compute_backend_service.narthex.id

  host_rule {
    hosts        = ["candidate.${var.domain}"]
    path_matcher = "candidate"
  }

  path_matcher {
    name            = "candidate"
    default_service = google_compute_backend_service.candidate.id
  }
}

resource "google_compute_target_https_proxy" "narthex" {
  name             = "@{name}"
  url_map          = google_compute_url_map.narthex.id
  ssl_certificates = [google_compute_managed_ssl_certificate.narthex.id]
}

resource "google_compute_global_address" "narthex" {
  name = "@{name}"
}

resource "google_compute_global_forwarding_rule" "narthex" {
  name                  = "@{name}"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.narthex.id
  port_range            = "443"
  target                = google_compute_target_https_proxy.narthex.id
}

output "address" {
  description = "The A record of the domain, and of candidate. below it."
  value       = google_compute_global_address.narthex.address
}
