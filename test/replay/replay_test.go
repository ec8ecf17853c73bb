// Package replay tests what a packet does on its way through the production
// engine: captures of real programs against goldens, and scenarios in words.
package replay

import "flag"

var update = flag.Bool("update", false, "write goldens anew")
