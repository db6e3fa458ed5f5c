variable "project" {
  type    = string
  default = "my-project"
}

variable "region" {
  type    = string
  default = "europe-west1"
}

variable "image" {
  type    = string
  default = "europe-docker.pkg.dev/my-project/narthex/gateway:0.1.0"
}

variable "domain" {
  type    = string
  default = "chat.example.com"
}
