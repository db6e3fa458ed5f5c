// A provider with the schemas of the services that deploy/terraform uses, for `terraform validate` where the registry
// cannot be reached. Built in a checkout of hashicorp/terraform-provider-google, into which this file is copied:
//
//	go build -o DIR/terraform-provider-google ./cmd/validate
//	NARTHEX_TEST_TERRAFORM_PROVIDER=DIR pytest -m soak tests/deploy/test_checkers.py
package main

import (
	"github.com/hashicorp/terraform-plugin-sdk/v2/helper/schema"
	"github.com/hashicorp/terraform-plugin-sdk/v2/plugin"
	"github.com/hashicorp/terraform-provider-google/google/registry"
	_ "github.com/hashicorp/terraform-provider-google/google/services/cloudrunv2"
	_ "github.com/hashicorp/terraform-provider-google/google/services/compute"
	_ "github.com/hashicorp/terraform-provider-google/google/services/resourcemanager"
	_ "github.com/hashicorp/terraform-provider-google/google/services/secretmanager"
)

func main() {
	text := func() *schema.Schema { return &schema.Schema{Type: schema.TypeString, Optional: true} }
	plugin.Serve(&plugin.ServeOpts{ProviderFunc: func() *schema.Provider {
		return &schema.Provider{
			Schema:       map[string]*schema.Schema{"project": text(), "region": text()},
			ResourcesMap: registry.ResourceMap(),
		}
	}})
}
