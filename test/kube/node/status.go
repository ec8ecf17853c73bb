//go:build linux

package node

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// report tells the apiserver how the pod is. It returns when the apiserver knows.
func (p *pod) report(phase corev1.PodPhase, ready bool) {
	now := metav1.Now()
	if p.status.StartTime == nil {
		p.status.StartTime = &now
	}
	p.status.Phase = phase
	p.status.HostIP, p.status.HostIPs, p.status.PodIP, p.status.PodIPs = "", nil, "", nil
	for _, a := range p.k.Addresses {
		p.status.HostIPs = append(p.status.HostIPs, corev1.HostIP{IP: a.String()})
	}
	for _, a := range p.ips {
		p.status.PodIPs = append(p.status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	if len(p.ips) > 0 {
		p.status.HostIP, p.status.PodIP = p.status.HostIPs[0].IP, p.status.PodIPs[0].IP
	}
	p.status.ContainerStatuses = nil
	for i, c := range p.object.Spec.Containers {
		s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Ready: ready, RestartCount: p.restarts[i], Started: &ready}
		if run := p.containers[i]; run != nil {
			select {
			case <-run.Ended():
				s.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: int32(max(run.ExitCode(), 0)), FinishedAt: now}
			default:
				s.State.Running = &corev1.ContainerStateRunning{StartedAt: *p.status.StartTime}
			}
		}
		p.status.ContainerStatuses = append(p.status.ContainerStatuses, s)
	}
	p.condition(corev1.PodScheduled, true)
	p.condition(corev1.PodInitialized, true)
	p.condition(corev1.PodReadyToStartContainers, phase == corev1.PodRunning)
	p.condition(corev1.ContainersReady, ready)
	p.condition(corev1.PodReady, ready)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.object.UID}, "status": p.status})
	if err != nil {
		p.log("status: %v", err)
		return
	}
	p.k.insist(func(ctx context.Context) error {
		_, err := p.k.Client.CoreV1().Pods(p.object.Namespace).Patch(ctx, p.object.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
	p.log("status: %s, ready %t, %v", phase, ready, p.ips)
}

func (p *pod) condition(what corev1.PodConditionType, is bool) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	for i := range p.status.Conditions {
		if c := &p.status.Conditions[i]; c.Type == what {
			if c.Status != status {
				c.Status, c.LastTransitionTime = status, metav1.Now()
			}
			return
		}
	}
	p.status.Conditions = append(p.status.Conditions, corev1.PodCondition{Type: what, Status: status, LastTransitionTime: metav1.Now()})
}
