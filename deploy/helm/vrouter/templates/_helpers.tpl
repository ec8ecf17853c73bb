{{/* Labels of every object; component is the part that it belongs to. */}}
{{- define "vrouter.labels" -}}
{{ include "vrouter.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Labels that select pods: they never change. */}}
{{- define "vrouter.selector" -}}
app.kubernetes.io/name: vrouter
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* An image by repository and tag. */}}
{{- define "vrouter.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* How vrkube finds the API server; an absent ConfigMap leaves what the kubelet sets. */}}
{{- define "vrouter.apiServerEnv" -}}
- name: KUBERNETES_SERVICE_HOST
  valueFrom: {configMapKeyRef: {name: vrouter-apiserver, key: host, optional: true}}
- name: KUBERNETES_SERVICE_PORT
  valueFrom: {configMapKeyRef: {name: vrouter-apiserver, key: port, optional: true}}
{{- end -}}
