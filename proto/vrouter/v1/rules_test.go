package vrouterv1

import (
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// TestRulesCompile holds that every rule of every message compiles: protovalidate otherwise finds out with the first request.
func TestRulesCompile(t *testing.T) {
	var messages []proto.Message
	for _, file := range []protoreflect.FileDescriptor{File_vrouter_v1_agent_proto, File_vrouter_v1_flow_proto, File_vrouter_v1_drop_proto,
		File_vrouter_v1_explain_proto, File_vrouter_v1_status_proto, File_vrouter_v1_state_proto, File_vrouter_v1_resources_proto, File_vrouter_v1_journey_proto} {
		for i := range file.Messages().Len() {
			messages = append(messages, newMessage(t, file.Messages().Get(i).FullName()))
		}
	}
	if _, err := protovalidate.New(protovalidate.WithMessages(messages...)); err != nil {
		t.Fatal(err)
	}
}

// TestRequestRules checks the rules that state files do not reach (those are in internal/statefile/testdata/wrong).
func TestRequestRules(t *testing.T) {
	for _, tc := range []struct {
		message, json string
		want          string // part of the error; empty: valid
	}{
		{"ApplyRequest", `{"upserts":[{"name":"pods","virtualNetwork":{}}],"deletes":[{"kind":"Route","name":"r"}],"prune":{"kinds":["Route"]}}`, ""},
		{"ApplyRequest", `{"upserts":[{"name":"pods"}]}`, "upserts[0].spec: exactly one field is required"},
		{"ApplyRequest", `{"upserts":[{"virtualNetwork":{}}]}`, "upserts[0].name: value is required"},
		{"ApplyRequest", `{"deletes":[{"kind":"Network","name":"r"}]}`, "deletes[0].kind: must be one of VirtualNetwork"},
		{"ApplyRequest", `{"prune":{"kinds":["x"]}}`, "prune.kinds[0]: must be one of"},
		{"ApplyRequest", `{"requestId":"` + strings.Repeat("x", 129) + `"}`, "request_id"},
		{"SyncRequest", `{}`, "message: exactly one field is required"},
		{"SyncRequest", `{"hello":{"controllerId":"vrkube","electionId":"1"}}`, ""},
		{"SyncRequest", `{"hello":{"controllerId":"operator"}}`, "choose another controllerId"},
		{"SyncRequest", `{"delta":{"sequence":"1","upserts":[{"name":"a b","route":{}}]}}`, "delta.upserts[0].name: must start and end"},
		{"ListRequest", `{"kinds":["FloatingIP"],"names":["web"]}`, ""},
		{"ListRequest", `{"kinds":["FloatingIP","FloatingIP"]}`, "unique"},
		{"ExplainRequest", `{"virtualMachineInterface":"a","destination":"10.0.0.1","protocol":"TCP","destinationPort":80}`, ""},
		{"ExplainRequest", `{"virtualMachineInterface":"a","destination":"fd00::1"}`, ""},
		{"ExplainRequest", `{"virtualMachineInterface":"a","destination":"10.0.0.1","protocol":"TCP"}`, "need destinationPort"},
		{"ExplainRequest", `{"virtualMachineInterface":"a","destination":"10.0.0.1","destinationPort":80}`, "needs protocol"},
		{"ExplainRequest", `{"virtualMachineInterface":"a","destination":"10.0.0.1","protocol":47}`, "must be TCP, UDP, SCTP or ICMP"},
		{"ExplainRequest", `{"virtualMachineInterface":"a","destination":"10.0.0.0/8"}`, "without a prefix length"},
		{"ListFlowsRequest", `{"filter":{"source":"10.0.0.0/8","destination":"fd00::1","protocol":47}}`, ""},
		{"ListFlowsRequest", `{"filter":{"source":"10.0.0.1/8"}}`, "must be an address or a prefix"},
		{"ListFlowsRequest", `{"filter":{"port":65536}}`, "filter.port"},
		{"WatchFlowsRequest", `{"interval":"0.1s"}`, ""},
		{"WatchFlowsRequest", `{"interval":"0.001s"}`, "interval"},
		{"DeleteFlowsRequest", `{"all":true}`, ""},
		{"DeleteFlowsRequest", `{}`, "give a filter, or all: true"},
		{"DeleteFlowsRequest", `{"all":true,"filter":{"vrf":"a"}}`, "give a filter, or all: true"},
		{"WatchDropsRequest", `{"interval":"7200s"}`, "interval"},
	} {
		m := newMessage(t, protoreflect.FullName("vrouter.v1."+tc.message))
		if err := protojson.Unmarshal([]byte(tc.json), m); err != nil {
			t.Fatalf("%s: %v", tc.json, err)
		}
		err := protovalidate.Validate(m)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s: %v, want %q", tc.message, tc.json, err, tc.want)
		}
	}
}

// TestJSONSpelling holds the contract's spelling of the floating IP, which is Contrail's own.
func TestJSONSpelling(t *testing.T) {
	const text = `{"floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":80,"protocol":"TCP"}]}}`
	f := &FloatingIP{}
	if err := protojson.Unmarshal([]byte(text), f); err != nil {
		t.Fatal(err)
	}
	out, err := protojson.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(string(out), " ", ""); got != text {
		t.Errorf("%s, want %s", got, text)
	}
}

// newMessage returns an empty message by name.
func newMessage(t *testing.T, name protoreflect.FullName) proto.Message {
	t.Helper()
	d, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.New().Interface()
}
