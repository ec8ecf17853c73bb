// Command vrctl is the operator's view of a node's agent: desired state, live sessions, drops and the journey of a packet.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, color: wantsColor(os.Stdout)})
	stop()
	os.Exit(code)
}
