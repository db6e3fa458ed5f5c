variable "project" {
  type    = string
  default = "@{project}"
}

variable "region" {
  type    = string
  default = "@{region}"
}

variable "image" {
  type    = string
  default = "@{image}"
}

variable "domain" {
  type    = string
  default = "@{domain}"
}
