# There is no session affinity because any instance resumes any socket. An open socket is a request: connections, not
# CPU, size the service.
resource "google_service_account" "narthex" {
  account_id = "@{name}"
}

resource "google_cloud_run_v2_service" "narthex" {
  name     = "@{name}"
  location = var.region
  ingress  = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"

  template {
    # The longest life of a socket. Sockets are rotated at NARTHEX_MAX_SOCKET_LIFE_S, before Cloud Run cuts them.
    timeout                          = "@{request_timeout_s}s"
    max_instance_request_concurrency = @{concurrency}
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    service_account                  = google_service_account.narthex.email

    scaling {
      min_instance_count = @{min_instances}
      max_instance_count = @{max_instances}
    }
    @{network_terraform}

    containers {
      image = var.image
      args  = ["serve"]

      ports {
        # http1, never h2c: an upgrade is HTTP/1.1.
        name           = "http1"
        container_port = 8080
      }

      resources {
        limits = {
          cpu    = "@{cpu}"
          memory = "@{memory_mib}Mi"
        }
        # Always allocated: runs, leases and the drain go on while no request is open.
        cpu_idle = false
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 60
        http_get {
          path = "/readyz"
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 6
        http_get {
          path = "/livez"
        }
      }

      @{variables_terraform}

      @{secrets_terraform}
    }
  }

  # Cloud Run reads the secrets while it makes the revision.
  depends_on = [google_secret_manager_secret_iam_member.narthex]

  # The pipeline shifts traffic between revisions (docs/pipelines.md).
  lifecycle {
    ignore_changes = [traffic, template[0].containers[0].image]
  }
}

# narthex refuses by itself, with a reason: IAM in front would refuse every user before it.
resource "google_cloud_run_v2_service_iam_member" "public" {
  name     = google_cloud_run_v2_service.narthex.name
  location = var.region
  role     = "roles/run.invoker"
  member   = "allUsers"
}

resource "google_secret_manager_secret" "narthex" {
  for_each  = toset([@{secret_names_hcl}])
  secret_id = each.value

  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_iam_member" "narthex" {
  for_each  = google_secret_manager_secret.narthex
  secret_id = each.value.id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.narthex.email}"
}
