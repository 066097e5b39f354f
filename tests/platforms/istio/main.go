// What istiod generates, served to proxies on the loopback interface.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	_ "istio.io/istio/pilot/test/xds"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		info, _ := debug.ReadBuildInfo()
		for _, module := range info.Deps {
			if module.Path == "istio.io/istio" {
				fmt.Println(module.Version)
			}
		}
	}
}
